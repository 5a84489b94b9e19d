//! Who still waits, and for what.

use super::{DriverState, World};

impl World {
    /// One line for everything that waits: drivers, threads, and what their machines wait for.
    pub fn pending(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, state) in self.users.drivers.iter().enumerate() {
            if *state == DriverState::Coming {
                lines.push(format!("driver {number} was not let in"));
            }
        }
        for (id, program) in &self.users.programs {
            lines.extend(program.waiting(*id));
        }
        lines.extend(self.cluster.pending());
        lines
    }
}
