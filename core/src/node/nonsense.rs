//! Whatever anybody sends in whatever order: the node's invariants hold and nothing panics.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop, proptest};
use proptest::strategy::Union;

use super::harness::*;
use super::{Effect, Input, SpillLocation, WorkResult};
use crate::ids::{
    ActorId, GroupId, JobId, LeaseId, NodeId, ObjectId, OperationId, ProcessId, RequestId, TaskId,
};
use crate::machine::Span;
use crate::message::{Message, NodeSummary, Query, Route};
use crate::resources::{self, Demand, Environment, Quantity, Resources};
use crate::value::{ActorDeath, Death, Failure};
use bytes::Bytes;

/// The head, the daemon, processes that may live, and some that never do.
fn processes() -> impl Strategy<Value = ProcessId> {
    let others = vec![ProcessId::HEAD, ProcessId::daemon(NODE), afar(3, u32::MAX), process(u32::MAX)];
    Union::new_weighted(vec![
        (6, (1u32..16).prop_map(process).boxed()),
        (3, (2u32..4, 0u32..4).prop_map(|(node, number)| afar(node, number)).boxed()),
        (1, prop::sample::select(others).boxed()),
    ])
}

fn nodes() -> impl Strategy<Value = NodeId> {
    (1u32..4).prop_map(NodeId)
}

fn tasks() -> impl Strategy<Value = TaskId> {
    let owner = Union::new_weighted(vec![
        (4, (1u32..8).prop_map(process).boxed()),
        (1, (2u32..4).prop_map(|node| afar(node, 1)).boxed()),
    ]);
    (owner, 0u64..4).prop_map(|(owner, number)| TaskId { owner, number })
}

fn objects() -> impl Strategy<Value = ObjectId> {
    (tasks(), 0u32..2).prop_map(|(task, index)| task.object(index))
}

fn actors() -> impl Strategy<Value = ActorId> {
    tasks().prop_map(ActorId)
}

fn offsets() -> impl Strategy<Value = u64> {
    Union::new_weighted(vec![
        (8, (0u64..300).prop_map(|page| 4_096 + page * 4_096).boxed()),
        (2, (0u64..20_000).prop_map(|unit| unit * 64).boxed()),
        (1, any::<u64>().boxed()),
    ])
}

fn sizes() -> impl Strategy<Value = u64> {
    let common = prop::sample::select(vec![0, 1, 64, 4_096, 65_536, 300_000, 1 << 20]);
    Union::new_weighted(vec![(8, common.boxed()), (1, any::<u64>().boxed())])
}

fn amounts() -> impl Strategy<Value = Resources> {
    let amount = prop::sample::select(vec![0, 1, 2_500, 10_000, 15_000, 20_000, -1, i64::MAX, i64::MIN]);
    let name = prop::sample::select(vec!["CPU", "GPU", "slot", "memory"]);
    prop::collection::vec((name, amount), 0..3).prop_map(|amounts| {
        let mut resources = Resources::default();
        for (name, amount) in amounts {
            resources.set(name, Quantity(amount));
        }
        resources
    })
}

fn demands() -> impl Strategy<Value = Demand> {
    let environment = prop::sample::select(vec![
        Environment::default(),
        Environment { variables: vec![(String::from("A"), String::from("1"))] },
    ]);
    let strategy =
        prop::sample::select(vec![resources::Strategy::Hybrid, resources::Strategy::bound(NodeId(2), false)]);
    (amounts(), environment, strategy).prop_map(|(resources, environment, strategy)| Demand {
        resources,
        strategy,
        environment,
        ..Demand::default()
    })
}

fn routes() -> impl Strategy<Value = Route> {
    Union::new(vec![
        Just(Route::Fresh).boxed(),
        nodes().prop_map(|by| Route::Rejected { by, times: 1 }).boxed(),
        Just(Route::IfFree).boxed(),
        Just(Route::Queue).boxed(),
    ])
}

fn lease_messages() -> BoxedStrategy<Message> {
    let request = (0u64..8).prop_map(RequestId);
    let lease = (1u64..20, 1u32..3).prop_map(|(number, epoch)| LeaseId { node: NODE, epoch, number });
    Union::new(vec![
        (request.clone(), 1u32..3, demands(), routes(), prop::option::of(nodes()))
            .prop_map(|(request, job, demand, route, prefer)| Message::RequestLease {
                request,
                job: JobId(job),
                demand: Arc::new(demand),
                route,
                prefer,
            })
            .boxed(),
        request.prop_map(|request| Message::CancelLeaseRequest { request }).boxed(),
        (lease, any::<bool>()).prop_map(|(lease, reusable)| Message::ReturnLease { lease, reusable }).boxed(),
        Just(Message::WorkerReady).boxed(),
        Just(Message::Blocked).boxed(),
        Just(Message::Unblocked).boxed(),
        processes().prop_map(|process| Message::WatchProcess { process }).boxed(),
        processes().prop_map(|process| Message::ProcessDied { process, death: KILLED }).boxed(),
        prop::sample::select(vec![Query::Workers, Query::Store, Query::Nodes])
            .prop_map(|query| Message::Ask { request: RequestId(1), query })
            .boxed(),
    ])
    .boxed()
}

fn store_messages() -> BoxedStrategy<Message> {
    Union::new(vec![
        sizes().prop_map(|size| Message::RequestExtent { request: RequestId(1), size }).boxed(),
        (offsets(), sizes()).prop_map(|(offset, size)| Message::ReturnExtent { offset, size }).boxed(),
        (objects(), 0u32..3, offsets(), sizes())
            .prop_map(|(object, attempt, offset, size)| Message::Seal { object, attempt, offset, size })
            .boxed(),
        (objects(), prop::collection::vec(nodes(), 0..4))
            .prop_map(|(object, locations)| Message::Pin { object, locations })
            .boxed(),
        objects().prop_map(|object| Message::Unpin { object }).boxed(),
        (objects(), prop::sample::select(vec![0, 1, u32::MAX]))
            .prop_map(|(object, attempt)| Message::FreeObject { object, attempt })
            .boxed(),
        (objects(), 0u32..3).prop_map(|(object, attempt)| Message::CopyMissing { object, attempt }).boxed(),
    ])
    .boxed()
}

/// What daemons say to each other of objects.
fn pull_messages() -> BoxedStrategy<Message> {
    Union::new(vec![
        objects().prop_map(|object| Message::PullObject { object }).boxed(),
        (objects(), 0u32..3, sizes(), nodes())
            .prop_map(|(object, attempt, size, primary)| Message::PullReady {
                object,
                attempt,
                size,
                primary,
            })
            .boxed(),
        objects()
            .prop_map(|object| Message::PullFailed { object, failure: Failure::Freed { object } })
            .boxed(),
        (objects(), nodes()).prop_map(|(object, node)| Message::PullElsewhere { object, node }).boxed(),
        objects().prop_map(|object| Message::PullEnded { object }).boxed(),
        objects().prop_map(|object| Message::KeepObject { object, job: JobId(1) }).boxed(),
        (objects(), prop::option::of(0u32..3))
            .prop_map(|(object, attempt)| Message::ObjectKept { object, attempt })
            .boxed(),
    ])
    .boxed()
}

/// What the head says of nodes, jobs and groups.
fn cluster_messages() -> BoxedStrategy<Message> {
    let views = prop::collection::vec((nodes(), amounts(), any::<bool>()), 0..3).prop_map(|nodes| {
        let seen = nodes.into_iter().map(|(node, free, alive)| NodeSummary {
            alive,
            free,
            ..summary(node.0, &[("CPU", 2.0), ("slot", 1.0)])
        });
        Message::View { nodes: seen.map(Arc::new).collect() }
    });
    let group = (0u64..2).prop_map(|number| GroupId(TaskId { owner: driver(), number }));
    let attempt = 0u32..3;
    Union::new_weighted(vec![
        (6, views.boxed()),
        (1, (2u32..4).prop_map(|node| Message::NodeDied { node: NodeId(node), heir: NODE }).boxed()),
        (
            2,
            (processes(), 1u32..3)
                .prop_map(|(driver, job)| Message::JobStarted {
                    job: JobId(job),
                    driver,
                    namespace: String::new(),
                    launch: Bytes::new(),
                })
                .boxed(),
        ),
        (1, (1u32..3).prop_map(|job| Message::JobForgotten { job: JobId(job) }).boxed()),
        (1, any::<bool>().prop_map(draining).boxed()),
        (
            2,
            (group.clone(), attempt.clone(), prop::collection::vec((0u32..3, amounts()), 0..3))
                .prop_map(|(group, attempt, bundles)| Message::ReserveBundles {
                    group,
                    attempt,
                    bundles,
                    order: 1,
                })
                .boxed(),
        ),
        (
            2,
            (group.clone(), attempt.clone())
                .prop_map(|(group, attempt)| Message::CommitBundles { group, attempt })
                .boxed(),
        ),
        (1, group.clone().prop_map(|group| Message::SuspendBundles { group }).boxed()),
        (
            1,
            (group, attempt, any::<bool>())
                .prop_map(|(group, attempt, removed)| Message::ReturnBundles { group, attempt, removed })
                .boxed(),
        ),
    ])
    .boxed()
}

fn actor_messages() -> BoxedStrategy<Message> {
    let incarnation = 0u32..2;
    Union::new(vec![
        (actors(), incarnation.clone(), demands(), amounts())
            .prop_map(|(actor, incarnation, placement, running)| {
                let mut spec = Box::new(spec(actor, &[]));
                spec.placement = placement;
                spec.running = running;
                Message::StartActor { spec, incarnation, order: 1 }
            })
            .boxed(),
        (actors(), incarnation.clone(), any::<bool>())
            .prop_map(|(actor, incarnation, graceful)| Message::StopActor { actor, incarnation, graceful })
            .boxed(),
        (actors(), incarnation.clone(), any::<bool>())
            .prop_map(|(actor, incarnation, failed)| Message::ActorConstructed {
                actor,
                incarnation,
                failed: failed.then_some(ActorDeath::Exited),
            })
            .boxed(),
        (actors(), incarnation)
            .prop_map(|(actor, incarnation)| Message::ActorExits { actor, incarnation })
            .boxed(),
        (processes(), 1u32..3)
            .prop_map(|(driver, job)| Message::JobRegistered {
                driver,
                job: JobId(job),
                namespace: String::new(),
            })
            .boxed(),
        (1u32..3).prop_map(|job| Message::JobEnded { job: JobId(job) }).boxed(),
    ])
    .boxed()
}

#[derive(Clone, Debug)]
enum Step {
    Input(Input),
    /// The end of work that was started.
    Finish {
        pick: usize,
        result: WorkResult,
    },
    Pass {
        millis: u64,
    },
}

fn inputs() -> BoxedStrategy<Input> {
    let message = Union::new(vec![lease_messages(), store_messages(), actor_messages()]);
    let death = prop::sample::select(vec![KILLED, Death::Exited { code: 0 }]);
    let from_anybody = (processes(), message).prop_map(|(from, message)| Input::Received { from, message });
    let from_head = Union::new(vec![actor_messages(), cluster_messages()])
        .prop_map(|message| Input::Received { from: ProcessId::HEAD, message });
    let from_nodes = (2u32..4, pull_messages()).prop_map(|(node, message)| {
        let from = ProcessId::daemon(NodeId(node));
        Input::Received { from, message }
    });
    let exits = (processes(), death, any::<bool>()).prop_map(|(process, death, started)| {
        let last_started = started.then_some(TaskId { owner: process, number: 1 });
        Input::ProcessExited { process, death, last_started }
    });
    let drivers = (0u32..5).prop_map(|prestart| Input::DriverConnected {
        connection: 1,
        pid: 1,
        namespace: String::new(),
        prestart,
        launch: Bytes::new(),
    });
    let pressure = prop::collection::vec((processes(), any::<u64>()), 0..6)
        .prop_map(|workers| Input::MemoryPressure { detail: String::new(), workers });
    let ready = (1u32..16)
        .prop_map(|number| Input::Received { from: process(number), message: Message::WorkerReady });
    Union::new_weighted(vec![
        (20, from_anybody.boxed()),
        (10, from_head.boxed()),
        (10, from_nodes.boxed()),
        (1, (0u64..5).prop_map(|epoch| Input::HeadChanged { epoch }).boxed()),
        (2, exits.boxed()),
        (1, drivers.boxed()),
        (1, pressure.boxed()),
        (4, ready.boxed()),
    ])
    .boxed()
}

fn steps() -> impl Strategy<Value = Step> {
    let location = SpillLocation { file: 1, offset: 0, size: 1 };
    let results = vec![
        WorkResult::Done,
        WorkResult::Done,
        WorkResult::Done,
        WorkResult::Forked { pid: 5 },
        WorkResult::Spilled(vec![]),
        WorkResult::Spilled(vec![location]),
        WorkResult::Spilled(vec![location; 2]),
        WorkResult::Failed(Failure::OutOfDisk { detail: String::new() }),
    ];
    Union::new_weighted(vec![
        (6, inputs().prop_map(Step::Input).boxed()),
        (
            4,
            (any::<usize>(), prop::sample::select(results))
                .prop_map(|(pick, result)| Step::Finish { pick, result })
                .boxed(),
        ),
        (1, (0u64..15_000).prop_map(|millis| Step::Pass { millis }).boxed()),
    ])
}

proptest! {
    #[test]
    fn nothing_that_anybody_sends_breaks_the_node(steps in prop::collection::vec(steps(), 1..200)) {
        let config = crate::node::Config {
            store_capacity: 1 << 20,
            ..config(&[("CPU", 2.0), ("GPU", 2.0), ("slot", 1.0)])
        };
        let mut node = Harness::with_driver_and(config);
        let mut work: Vec<OperationId> = Vec::new();
        for step in steps {
            let effects = match step {
                Step::Input(input) => node.input(input),
                Step::Pass { millis } => node.pass(Span::from_millis(millis)),
                Step::Finish { pick, result } => {
                    work.extend(node.forks.drain(..).map(|(operation, ..)| operation));
                    if work.is_empty() {
                        continue;
                    }
                    let operation = work.swap_remove(pick % work.len());
                    node.finished(operation, result)
                }
            };
            work.extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Start { operation, .. } => Some(operation),
                _ => None,
            }));
        }
    }
}
