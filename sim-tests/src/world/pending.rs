//! Who still waits, and for what.

use super::{DriverState, World};

impl World {
    /// One line for everything that waits: threads, tasks, actors, messages.
    pub fn pending(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, state) in self.drivers.iter().enumerate() {
            if *state == DriverState::Coming {
                lines.push(format!("driver {number} was not let in"));
            }
        }
        for (id, process) in &self.processes {
            lines.extend(process.waiting(*id));
            let inspection = process.owner.inspect();
            for task in inspection.tasks.iter().filter(|task| !task.done) {
                lines.push(format!("{id:?} task {:?} attempt {} {}", task.id, task.attempt, task.stage));
            }
            for actor in inspection.actors.iter().filter(|actor| actor.queued + actor.in_flight > 0) {
                lines.push(format!(
                    "{id:?} {:?} is {} ({} calls wait, {} are in flight)",
                    actor.id, actor.state, actor.queued, actor.in_flight
                ));
            }
            if inspection.lease_requests > 0 {
                lines.push(format!("{id:?} waits for {} leases", inspection.lease_requests));
            }
        }
        lines.extend(self.daemon.operations().map(|work| format!("work {work:?}")));
        lines
    }
}
