//! Processes: their `Owner` machines, their lives and deaths.

use shoal_core::ids::{ActorId, JobId, ProcessId, RequestId, TaskId};
use shoal_core::owner::{self, NextItem, Owner};
use shoal_core::resources::Devices;
use shoal_core::task::Callee;
use shoal_core::value::Death;
use shoal_core::{Effects, Machine, Span, Time};

use super::{Call, Cluster, Event, Fact, Frame, micros};
use crate::{Content, Fault, Way};

/// A process that is alive.
pub struct Process {
    /// Its machine.
    pub owner: Owner,
    /// Its job.
    pub job: JobId,
    /// The driver's number, if it is a driver.
    pub driver: Option<usize>,
    /// The machine it runs on.
    pub host: usize,
    /// The actor that lives here, and which start of it.
    pub actor: Option<(ActorId, u32)>,
    /// The devices that it uses: those of the task that runs here, or of the actor that lives here.
    pub devices: Devices,
    pub(super) timer: Option<Time>,
    pub(super) paused_until: Time,
    /// Effects that took place, and after how many it crashes.
    effects: u32,
    doom: Option<u32>,
    /// It was told to end, and does.
    ending: bool,
    last_started: Option<TaskId>,
    next_request: u64,
}

impl Process {
    /// A number for a question or a request.
    pub fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Whether it was told to end.
    pub fn is_ending(&self) -> bool {
        self.ending
    }
}

impl<C: Content> Cluster<C> {
    /// A process begins on a node.
    pub(super) fn spawn(&mut self, id: ProcessId, job: JobId, driver: Option<usize>) {
        let Some(daemon) = self.nodes.get(&id.node()) else { return };
        let host = daemon.host;
        let mut config = owner::Config::new(id, job, self.settings.hosts[host].cpus);
        config.stewards = self.settings.stewards;
        let process = Process {
            owner: Owner::new(config),
            job,
            driver,
            host,
            actor: None,
            devices: Devices::default(),
            timer: None,
            paused_until: Time(0),
            effects: 0,
            doom: self.doom_of(host, id.number()),
            ending: false,
            last_started: None,
            next_request: 1,
        };
        self.processes.insert(id, process);
        self.calls.push_back((id, Call::Born { job, driver }));
    }

    /// After how many effects this process crashes, if it does.
    fn doom_of(&self, host: usize, number: u32) -> Option<u32> {
        let doom = |fault: &Fault| match fault {
            Fault::Crash { host: h, process, effects } if *h == host && *process == number => Some(*effects),
            _ => None,
        };
        self.faults.iter().find_map(doom)
    }

    pub(super) fn process_timer(&mut self, id: ProcessId) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if process.timer.is_none_or(|due| due > now) || process.ending {
            return;
        }
        if process.paused_until > now {
            let at = process.paused_until;
            process.timer = Some(at);
            self.heap.schedule(at, Event::Timer(id));
            return;
        }
        process.timer = None;
        self.trace.record(now, id, '<', &"timeout");
        let mut effects = self.effects.take().unwrap_or_default();
        let local = self.hosts[process.host].clock.shows(now);
        process.owner.handle_timeout(local, &mut effects);
        if let Some((due, wakeup)) = process.owner.poll_timeout()
            && due <= local
        {
            self.broken = Some(format!("{id:?}: the deadline {wakeup:?} is still due after it fired"));
        }
        self.perform(id, effects);
    }

    /// Give a process's machine an input, and let the effects take place.
    pub fn tell(&mut self, id: ProcessId, input: owner::Input) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        self.trace.record(now, id, '<', &input);
        let mut effects = self.effects.take().unwrap_or_default();
        let local = self.hosts[process.host].clock.shows(now);
        if matches!(input, owner::Input::Ran { .. }) && process.actor.is_none() {
            process.devices = Devices::default();
        }
        process.owner.handle(local, input, &mut effects);
        self.perform(id, effects);
    }

    /// The next item of a stream that a program of this process consumes.
    pub fn next_item(&mut self, id: ProcessId, task: TaskId) -> Option<NextItem> {
        let now = self.now();
        let process = self.processes.get_mut(&id)?;
        let mut effects = self.effects.take().unwrap_or_default();
        let next = process.owner.next_item(task, &mut effects);
        self.trace.record(now, id, '<', &("next item", task));
        self.perform(id, effects);
        Some(next)
    }

    /// Use the machine of a process directly, and let the effects take place; nothing if the process is gone.
    pub fn with_owner<T>(
        &mut self,
        id: ProcessId,
        act: impl FnOnce(&mut Owner, &mut Effects<owner::Effect>) -> T,
    ) -> Option<T> {
        let process = self.processes.get_mut(&id)?;
        let mut effects = self.effects.take().unwrap_or_default();
        let result = act(&mut process.owner, &mut effects);
        self.perform(id, effects);
        Some(result)
    }

    fn perform(&mut self, id: ProcessId, mut effects: Effects<owner::Effect>) {
        let now = self.now();
        for effect in effects.drain() {
            let Some(process) = self.processes.get_mut(&id) else {
                break;
            };
            if process.doom.is_some_and(|doom| process.effects >= doom) && !self.healed {
                self.count("crash at an effect");
                self.die(id, Death::Signalled { signal: 11 }, true);
                break;
            }
            process.effects += 1;
            self.trace.record(now, id, '>', &effect);
            self.owner_effect(id, effect);
        }
        self.effects = Some(effects);
        self.arm_process(id);
    }

    fn arm_process(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if let Some((due, _)) = process.owner.poll_timeout() {
            let due = self.hosts[process.host].clock.moment(due);
            if process.timer.is_none_or(|armed| due < armed) {
                process.timer = Some(due);
                self.heap.schedule(due, Event::Timer(id));
            }
        }
    }

    fn owner_effect(&mut self, id: ProcessId, effect: owner::Effect) {
        let call = match effect {
            owner::Effect::Send { to, message } => {
                self.note_unbegun(id, &message);
                return self.send(id, to, message);
            }
            owner::Effect::Exit { force, .. } => return self.exit(id, force),
            owner::Effect::Run { assignment, group } => {
                let (task, attempt) = (assignment.task, assignment.attempt);
                let call = match &assignment.callee {
                    Callee::Function { .. } => None,
                    Callee::Method { actor, incarnation, .. } => Some((*actor, *incarnation, group)),
                };
                if let Some(process) = self.processes.get_mut(&id) {
                    process.last_started = Some(task);
                    if let Callee::Function { devices, .. } = &assignment.callee {
                        process.devices = devices.clone();
                    }
                }
                self.facts.push(Fact::Started { process: id, task, attempt, call });
                Call::Run { assignment, group }
            }
            owner::Effect::Construct { spec, incarnation, devices } => {
                let actor = spec.id;
                if let Some(process) = self.processes.get_mut(&id) {
                    process.actor = Some((actor, incarnation));
                    process.devices = devices.clone();
                }
                self.facts.push(Fact::Constructing { process: id, actor, incarnation });
                Call::Construct { spec, incarnation, devices }
            }
            owner::Effect::Changed { object } => Call::Changed { object },
            owner::Effect::Interrupt { task } => Call::Interrupt { task },
            owner::Effect::Consumed { task, consumed } => Call::Consumed { task, consumed },
            owner::Effect::Answered { request, answer } => Call::Answered { request, answer },
            owner::Effect::GroupChanged { group, state } => Call::GroupChanged { group, state },
            owner::Effect::Room { request, refused } => Call::Room { request, refused },
        };
        self.calls.push_back((id, call));
    }

    fn exit(&mut self, id: ProcessId, force: bool) {
        if let Some(process) = self.processes.get_mut(&id)
            && !process.ending
        {
            process.ending = true;
            let most = if force { 0 } else { 20_000 };
            self.schedule_in(most, Event::Ends { process: id, code: i32::from(force) });
        }
    }

    /// A program lets up to so much time pass; [`Call::Wake`] says when it has.
    pub fn wake_in(&mut self, process: ProcessId, most_micros: u64, token: u64) {
        self.schedule_in(most_micros, Event::Wake { process, token });
    }

    /// A program lets exactly so much time pass; [`Call::Wake`] says when it has.
    pub fn wake_after(&mut self, process: ProcessId, span: Span, token: u64) {
        self.schedule(self.now() + span, Event::Wake { process, token });
    }

    pub(super) fn wake(&mut self, id: ProcessId, token: u64) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        if process.ending {
            return;
        }
        if process.paused_until > self.now() {
            self.schedule(process.paused_until, Event::Wake { process: id, token });
            return;
        }
        self.calls.push_back((id, Call::Wake { token }));
    }

    /// A driver leaves, after up to so long.
    pub fn leave(&mut self, process: ProcessId, most_micros: u64) {
        self.schedule_in(most_micros, Event::Ends { process, code: 0 });
    }

    /// A process crashes, taking along what it had not sent.
    pub fn crash(&mut self, process: ProcessId, signal: i32) {
        self.die(process, Death::Signalled { signal }, true);
    }

    /// A process ends itself at once, with this code.
    pub fn end(&mut self, process: ProcessId, code: i32) {
        self.die(process, Death::Exited { code }, false);
    }

    /// A process ends. One that ends abruptly takes along what it had not sent.
    pub(super) fn die(&mut self, id: ProcessId, death: Death, abruptly: bool) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        self.note_user_of_devices(&process);
        self.note_death(id, death.clone());
        if abruptly {
            self.network.lose_unsent(id);
        }
        self.network.forget_receiver(id);
        for peer in self.unlink(id) {
            self.dispatch(Way { from: id, to: peer }, Frame::Closed);
        }
        self.report_death(id, death, process.last_started);
    }

    /// A process is gone with its machine: nobody there is left to see it.
    pub(super) fn vanish(&mut self, id: ProcessId, death: Death) {
        if self.processes.remove(&id).is_some() {
            self.note_death(id, death);
            self.network.forget_receiver(id);
            self.network.forget_sender(id);
            self.unlink(id);
        }
    }

    /// Forget the direct links of a process; its peers.
    fn unlink(&mut self, id: ProcessId) -> Vec<ProcessId> {
        let range = (id, ProcessId(0))..=(id, ProcessId(u64::MAX));
        let peers: Vec<ProcessId> = self.direct.range(range).map(|(_, peer)| *peer).collect();
        for peer in &peers {
            self.direct.remove(&(id, *peer));
            self.direct.remove(&(*peer, id));
        }
        peers
    }

    fn note_death(&mut self, id: ProcessId, death: Death) {
        self.trace.record(self.now(), id, '!', &("dies", &death));
        self.note_owner_death(id);
        self.deaths.insert(id, death.clone());
        self.facts.push(Fact::Died { process: id, death });
        self.calls.push_back((id, Call::Gone));
    }

    /// The daemon learns of a death some time later, after all that the process had sent it.
    fn report_death(&mut self, id: ProcessId, death: Death, last_started: Option<TaskId>) {
        let daemon = ProcessId::daemon(id.node());
        if !self.nodes.contains_key(&id.node()) {
            self.network.forget_sender(id);
            return;
        }
        let way = Way { from: id, to: daemon };
        let now = self.now();
        let noticed = now + self.random.span(micros(0), micros(self.settings.reap_micros));
        let frame = Frame::Exited { death, last_started };
        let at = self.network.send(noticed, way, frame, &self.settings.delays);
        self.schedule(at, Event::Arrive { way, quiet: false });
    }
}
