//! Ownership survives its owner: owners, holders and stewards of two nodes, and a test that plays the
//! daemons between them.

use super::*;
use crate::message::Answer;
use crate::message::NodeSummary;
use crate::resources::Resources;
use crate::value::Payload;
use alloc::collections::{BTreeMap, VecDeque};

const ELSEWHERE: NodeId = NodeId(2);

fn there(number: u32) -> ProcessId {
    ProcessId::new(ELSEWHERE, number)
}

/// Processes, and the daemons and the head between them. Everything keeps its order.
struct World {
    owners: BTreeMap<ProcessId, Harness>,
    queue: VecDeque<(ProcessId, ProcessId, Message)>,
    watchers: BTreeMap<ProcessId, Vec<ProcessId>>,
    dead: BTreeMap<ProcessId, Death>,
    nodes: BTreeMap<NodeId, Option<NodeId>>,
    /// What owners asked of the world beside messages to each other.
    effects: Vec<(ProcessId, Effect)>,
    /// Messages to these wait.
    slow: Vec<ProcessId>,
}

impl World {
    /// Owners with these ids, and a steward on each of their nodes.
    fn new(processes: &[ProcessId]) -> World {
        let mut owners = BTreeMap::new();
        for process in processes {
            let mut config = Config::new(*process, JobId(1), 2);
            config.stewards = true;
            owners.insert(*process, Harness { owner: Owner::new(config), now: Time(0) });
            let steward = Config::steward(process.node(), 2);
            let harness = Harness { owner: Owner::new(steward), now: Time(0) };
            owners.entry(ProcessId::steward(process.node())).or_insert(harness);
        }
        let nodes = processes.iter().map(|process| (process.node(), None)).collect();
        World {
            owners,
            queue: VecDeque::new(),
            watchers: BTreeMap::new(),
            dead: BTreeMap::new(),
            nodes,
            effects: Vec::new(),
            slow: Vec::new(),
        }
    }

    fn owner(&self, process: ProcessId) -> &Owner {
        &self.owners[&process].owner
    }

    fn steward(&self, node: NodeId) -> &Owner {
        self.owner(ProcessId::steward(node))
    }

    fn tell(&mut self, process: ProcessId, input: Input) {
        let Some(harness) = self.owners.get_mut(&process) else { return };
        for effect in harness.tell(input) {
            match effect {
                Effect::Send { to, message } => self.queue.push_back((process, to, message)),
                other => self.effects.push((process, other)),
            }
        }
    }

    fn settle(&mut self) {
        let mut kept = VecDeque::new();
        while let Some((from, to, message)) = self.queue.pop_front() {
            if self.slow.contains(&to) {
                kept.push_back((from, to, message));
            } else if self.owners.contains_key(&to) {
                self.tell(to, Input::Received { from, message });
            } else {
                self.of_daemons(from, message);
            }
        }
        self.queue = kept;
    }

    fn of_daemons(&mut self, from: ProcessId, message: Message) {
        let answer = match message {
            Message::WatchProcess { process } => match self.dead.get(&process) {
                Some(death) => {
                    if let Some(Some(heir)) = self.nodes.get(&process.node()) {
                        let died = Message::NodeDied { node: process.node(), heir: *heir };
                        self.queue.push_back((ProcessId::daemon(from.node()), from, died));
                    }
                    Message::ProcessDied { process, death: death.clone() }
                }
                None => return self.watchers.entry(process).or_default().push(from),
            },
            Message::Mourn { of, .. } => Message::Mourned { of },
            Message::Ask { request, .. } => {
                let summary = |(node, heir): (&NodeId, &Option<NodeId>)| NodeSummary {
                    node: *node,
                    alive: heir.is_none(),
                    name: "".into(),
                    host: "".into(),
                    address: "".into(),
                    total: Resources::default(),
                    free: Resources::default(),
                    labels: vec![],
                };
                Message::Answer { request, answer: Answer::Nodes(self.nodes.iter().map(summary).collect()) }
            }
            other => {
                let to = ProcessId::HEAD;
                return self.effects.push((from, Effect::Send { to, message: other }));
            }
        };
        self.queue.push_back((ProcessId::daemon(from.node()), from, answer));
    }

    /// A process dies; everybody who has watched it hears of that.
    fn kill(&mut self, process: ProcessId) {
        self.owners.remove(&process);
        self.dead.insert(process, KILLED);
        for watcher in self.watchers.remove(&process).unwrap_or_default() {
            let message = Message::ProcessDied { process, death: KILLED };
            self.queue.push_back((ProcessId::daemon(watcher.node()), watcher, message));
        }
    }

    fn kill_node(&mut self, node: NodeId, heir: NodeId) {
        let here: Vec<ProcessId> =
            self.owners.keys().filter(|process| process.node() == node).copied().collect();
        for process in here {
            self.owners.remove(&process);
            self.dead.insert(process, Death::NodeDied { node });
        }
        self.queue.retain(|(from, _, _)| from.node() != node);
        self.nodes.insert(node, Some(heir));
        let left: Vec<ProcessId> = self.owners.keys().copied().collect();
        for process in left {
            let message = Message::NodeDied { node, heir };
            self.queue.push_back((ProcessId::daemon(process.node()), process, message));
        }
    }

    /// `from` gives `to` a reference, as a lender whose call keeps it.
    fn pass(&mut self, object: ObjectId, from: ProcessId, to: ProcessId) {
        let mut effects = Effects::new();
        let lender = self.owners.get_mut(&from).expect("it lives");
        lender.owner.grant(object, to, &mut effects);
        for effect in effects.drain() {
            let Effect::Send { to, message } = effect else { continue };
            self.queue.push_back((from, to, message));
        }
        self.tell(to, Input::AddReference { object });
        let mut effects = Effects::new();
        self.owners.get_mut(&to).expect("it lives").owner.receive_grant(object, from, &mut effects);
        for effect in effects.drain() {
            let Effect::Send { to: whom, message } = effect else { continue };
            self.queue.push_back((to, whom, message));
        }
        self.settle();
    }

    fn put(&mut self, process: ProcessId, contains: Vec<ObjectId>) -> ObjectId {
        let object = self.owners.get_mut(&process).expect("it lives").owner.next_task_id().object(0);
        self.tell(process, Input::Put { object, value: Value { contains, ..small() } });
        object
    }

    fn submit(&mut self, process: ProcessId, retries_max: i32) -> ObjectId {
        let id = self.owners.get_mut(&process).expect("it lives").owner.next_task_id();
        let Target::Function(definition) = function(1, Returns::Count(1)) else { unreachable!() };
        let definition = Arc::new(Definition { retries_max, ..(*definition).clone() });
        let target = Target::Function(definition);
        let (dependencies, borrows) = (vec![], vec![]);
        let arguments = Bytes::new();
        let submission = Submission { id, target, arguments, dependencies, borrows, parent: None };
        self.tell(process, Input::Submit(Box::new(submission)));
        id.object(0)
    }

    fn read(&mut self, process: ProcessId, object: ObjectId) -> &'static str {
        self.tell(process, Input::Need { object });
        self.settle();
        match self.owner(process).lookup(object) {
            Lookup::NotReady => "waits",
            Lookup::Inline { .. } | Lookup::Stored { .. } => "value",
            Lookup::Failed(Failure::OwnerDied { .. }) => "owner died",
            Lookup::Failed(Failure::ObjectLost { .. }) => "lost",
            Lookup::Failed(other) => panic!("{other:?}"),
        }
    }

    /// Drop references until nothing is left anywhere.
    fn assert_empty_after(&mut self, references: &[(ProcessId, ObjectId)]) {
        for (process, object) in references {
            self.tell(*process, Input::RemoveReference { object: *object });
        }
        self.settle();
        for (process, harness) in &self.owners {
            let inspection = harness.owner.inspect();
            assert!(inspection.objects.is_empty(), "{process:?}: {:?}", inspection.objects);
            assert_eq!((inspection.records, inspection.mournings), (0, vec![]), "{process:?}");
        }
    }
}

const OWNER: ProcessId = ProcessId::new(NODE, 1);
const HOLDER: ProcessId = ProcessId::new(NODE, 2);

#[test]
fn a_call_without_references_inside_tells_stewards_nothing() {
    let mut world = World::new(&[OWNER]);
    let argument = world.put(OWNER, vec![]);
    let id = world.owners.get_mut(&OWNER).expect("it lives").owner.next_task_id();
    let target = function(1, Returns::Count(1));
    let arguments = Bytes::new();
    let submission =
        Submission { id, target, arguments, dependencies: vec![argument], borrows: vec![], parent: None };
    let effects = world.owners.get_mut(&OWNER).expect("it lives").tell(Input::Submit(Box::new(submission)));
    let [Effect::Send { to: DAEMON, message: Message::RequestLease { request, .. } }] = &effects[..] else {
        panic!("{effects:?}");
    };
    let effects = world.owners.get_mut(&OWNER).expect("it lives").grant(*request, 1, 3);
    assert!(matches!(&effects[..], [Effect::Send { message: Message::PushTask(_), .. }]), "{effects:?}");
}

#[test]
fn a_record_goes_before_the_reference_and_with_the_object() {
    let mut world = World::new(&[OWNER, HOLDER]);
    let inner = world.put(OWNER, vec![]);
    let object = world.put(OWNER, vec![inner]);
    world.pass(object, OWNER, HOLDER);
    assert_eq!(world.steward(NODE).inspect().records, 2, "what it contains goes along");
    world.tell(OWNER, Input::RemoveReference { object: inner });
    world.assert_empty_after(&[(OWNER, object), (HOLDER, object)]);
}

#[test]
fn the_steward_of_its_node_owns_what_a_dead_process_owned() {
    let mut world = World::new(&[OWNER, HOLDER]);
    let inner = world.put(OWNER, vec![]);
    let object = world.put(OWNER, vec![inner]);
    let never_lent = world.put(OWNER, vec![]);
    world.pass(object, OWNER, HOLDER);
    world.kill(OWNER);
    world.settle();
    assert_eq!(world.read(HOLDER, object), "value");
    assert_eq!(world.read(HOLDER, inner), "value");
    assert_eq!(world.read(HOLDER, never_lent), "owner died");
    let references = [(HOLDER, object)];
    // The program never had references to these, only questions.
    for object in [inner, never_lent] {
        world.tell(HOLDER, Input::AddReference { object });
        world.tell(HOLDER, Input::RemoveReference { object });
    }
    world.assert_empty_after(&references);
}

/// Invariant 2, over the owner's death: a holder that registers late finds everything.
#[test]
fn the_heir_keeps_everything_until_slow_holders_have_registered() {
    let third = ProcessId::new(NODE, 3);
    let mut world = World::new(&[OWNER, HOLDER, third]);
    let object = world.put(OWNER, vec![]);
    world.pass(object, OWNER, HOLDER);
    world.pass(object, OWNER, third);
    world.slow = vec![HOLDER];
    world.kill(OWNER);
    world.settle();
    world.tell(third, Input::RemoveReference { object });
    world.settle();
    assert_eq!(world.steward(NODE).inspect().mournings, [OWNER]);
    world.slow.clear();
    world.settle();
    assert_eq!(world.steward(NODE).inspect().mournings, []);
    assert_eq!(world.read(HOLDER, object), "value");
    world.assert_empty_after(&[(HOLDER, object)]);
}

#[test]
fn nobody_waits_for_dead_holders_and_what_they_held_is_freed() {
    let mut world = World::new(&[OWNER, HOLDER]);
    let object = world.put(OWNER, vec![]);
    world.pass(object, OWNER, HOLDER);
    world.slow = vec![HOLDER];
    world.kill(OWNER);
    world.settle();
    world.kill(HOLDER);
    world.settle();
    world.assert_empty_after(&[]);
}

#[test]
fn a_pending_task_of_a_dead_owner_runs_again_with_one_retry_less() {
    let mut world = World::new(&[OWNER, HOLDER]);
    let object = world.submit(OWNER, 2);
    let hopeless = world.submit(OWNER, 0);
    world.pass(object, OWNER, HOLDER);
    world.pass(hopeless, OWNER, HOLDER);
    assert_eq!(world.read(HOLDER, object), "waits");
    assert_eq!(world.read(HOLDER, hopeless), "waits");
    world.effects.clear();
    world.kill(OWNER);
    world.settle();
    assert_eq!(world.read(HOLDER, hopeless), "owner died");
    let steward = ProcessId::steward(NODE);
    let request = world.effects.iter().find_map(|(from, effect)| match effect {
        Effect::Send { message: Message::RequestLease { request, job: JobId(1), .. }, .. }
            if *from == steward =>
        {
            Some(*request)
        }
        _ => None,
    });
    let request = request.expect("it asks for a worker of the task's job");
    let message = Message::LeaseGranted {
        request,
        lease: lease_id(9),
        worker: process(9),
        devices: Devices::default(),
    };
    world.tell(steward, Input::Received { from: DAEMON, message });
    world.settle();
    let run = world.effects.iter().find_map(|(_, effect)| match effect {
        Effect::Send { message: Message::PushTask(assignment), .. } => Some(assignment.clone()),
        _ => None,
    });
    let run = run.expect("it is pushed");
    assert_eq!((run.task, run.attempt), (object.task, 1));
    let crate::task::Callee::Function { code, .. } = run.callee else { panic!() };
    assert_eq!(code, Some(Bytes::from_static(b"code")), "with the code that came with the record");
    let completion = finished_attempt(object.task, 1, vec![Outcome::Value(small())]);
    world.tell(steward, Input::Received { from: process(9), message: completion });
    world.settle();
    assert_eq!(world.read(HOLDER, object), "value");
    world.assert_empty_after(&[(HOLDER, object), (HOLDER, hopeless)]);
}

#[test]
fn a_dead_nodes_objects_pass_to_the_heir_that_the_head_names() {
    let (holder, third) = (there(1), ProcessId::new(NodeId(3), 1));
    for heir in [ELSEWHERE, NodeId(3)] {
        let mut world = World::new(&[OWNER, holder, third]);
        let inner = world.put(OWNER, vec![]);
        let object = world.put(OWNER, vec![inner]);
        world.pass(object, OWNER, holder);
        world.kill_node(NODE, heir);
        world.settle();
        assert_eq!(world.read(holder, object), "value");
        assert_eq!(world.read(holder, inner), "value");
        world.tell(holder, Input::AddReference { object: inner });
        world.assert_empty_after(&[(holder, object), (holder, inner)]);
    }
}

#[test]
fn the_heir_of_a_dead_heir_owns_everything() {
    let (holder, third) = (there(1), ProcessId::new(NodeId(3), 1));
    // The process dies first; then its node, whose steward had inherited; then that heir's node.
    for holder_registers_between in [true, false] {
        let mut world = World::new(&[OWNER, holder, third]);
        let object = world.put(OWNER, vec![]);
        world.pass(object, OWNER, holder);
        if !holder_registers_between {
            world.slow = vec![holder];
        }
        world.kill(OWNER);
        world.settle();
        world.kill_node(NODE, NodeId(3));
        world.settle();
        world.kill_node(NodeId(3), ELSEWHERE);
        world.settle();
        world.slow.clear();
        world.settle();
        assert_eq!(world.read(holder, object), "value");
        world.assert_empty_after(&[(holder, object)]);
    }
}

#[test]
fn holders_that_lent_each_other_a_dead_owners_object_let_go() {
    let third = ProcessId::new(NODE, 3);
    let mut world = World::new(&[OWNER, HOLDER, third]);
    let object = world.put(OWNER, vec![]);
    world.pass(object, OWNER, HOLDER);
    world.slow = vec![OWNER];
    world.pass(object, HOLDER, third);
    world.pass(object, third, HOLDER);
    world.kill(OWNER);
    world.settle();
    assert_eq!(world.read(third, object), "value");
    world.assert_empty_after(&[(HOLDER, object), (HOLDER, object), (third, object)]);
}

#[test]
fn nothing_of_an_ended_job_is_kept() {
    let mut world = World::new(&[OWNER, HOLDER]);
    let object = world.put(OWNER, vec![]);
    let pending = world.submit(OWNER, 3);
    world.pass(object, OWNER, HOLDER);
    world.pass(pending, OWNER, HOLDER);
    world.kill(OWNER);
    world.settle();
    world.tell(
        ProcessId::steward(NODE),
        Input::Received { from: DAEMON, message: Message::JobEnded { job: JobId(1) } },
    );
    world.settle();
    assert!(world.steward(NODE).inspect().objects.is_empty());
    assert!(world.steward(NODE).inspect().tasks.is_empty());
    assert_eq!(world.read(HOLDER, pending), "owner died");
}

#[test]
fn who_asks_before_the_steward_has_heard_is_answered_when_it_has() {
    let mut world = World::new(&[OWNER, HOLDER]);
    let object = world.put(OWNER, vec![]);
    world.pass(object, OWNER, HOLDER);
    world.slow = vec![ProcessId::steward(NODE)];
    world.kill(OWNER);
    world.settle();
    // The news overtakes: the question comes first.
    world.queue.make_contiguous().reverse();
    world.slow.clear();
    world.settle();
    assert_eq!(world.read(HOLDER, object), "value");
}

/// A stored value's record names the node that died; other nodes say what they have.
#[test]
fn a_dead_nodes_object_is_read_from_a_copy_elsewhere() {
    let holder = there(1);
    for has_copy in [true, false] {
        let mut world = World::new(&[OWNER, holder]);
        let object = world.owners.get_mut(&OWNER).expect("it lives").owner.next_task_id().object(0);
        let value = Value { payload: Payload::Stored { node: NODE, size: 1 << 20 }, contains: vec![] };
        world.tell(OWNER, Input::Put { object, value });
        world.pass(object, OWNER, holder);
        world.kill_node(NODE, ELSEWHERE);
        if has_copy {
            let copy = Message::CopyAdded { object, node: ELSEWHERE, attempt: 0 };
            world.queue.push_back((ProcessId::daemon(ELSEWHERE), ProcessId::steward(ELSEWHERE), copy));
        }
        world.settle();
        world.effects.clear();
        let read = world.read(holder, object);
        if !has_copy {
            assert_eq!(read, "lost");
            continue;
        }
        // Once it is known where the bytes are, they are asked for there.
        world.read(holder, object);
        let pins: Vec<&Message> = world
            .effects
            .iter()
            .filter_map(|(_, effect)| match effect {
                Effect::Send { message: message @ Message::Pin { .. }, .. } => Some(message),
                _ => None,
            })
            .collect();
        assert_eq!(pins, [&Message::Pin { object, locations: vec![ELSEWHERE] }]);
        world.tell(holder, Input::RemoveReference { object });
        world.settle();
        let freed = |(_, effect): &(ProcessId, Effect)| {
            matches!(effect, Effect::Send { message: Message::FreeObject { .. }, .. })
        };
        assert!(world.effects.iter().any(freed), "the heir frees it with its last holder");
    }
}
