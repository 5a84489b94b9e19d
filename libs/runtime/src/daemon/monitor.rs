//! Watching the machine's memory while there are workers.

use std::env;
use std::rc::Rc;
use std::time::Duration;

use shoal_core::node::Input;

use super::DaemonError;
use super::memory::{Usage, resident_bytes};
use super::state::{Daemon, Shared, Task, with};

/// How often to look while something happens.
const BUSY_PERIOD: Duration = Duration::from_millis(250);

/// How often to look while nothing happens.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// How long the end of a worker takes to show in the numbers.
const RELIEF_PERIOD: Duration = Duration::from_millis(500);

/// The part of the memory that may be in use before workers are killed.
const THRESHOLD: f64 = 0.95;

/// Sets another one.
const THRESHOLD_VARIABLE: &str = "SHOAL_MEMORY_THRESHOLD";

/// The part of the memory that may be in use, as the user set it.
pub(super) fn threshold() -> Result<f64, DaemonError> {
    let Ok(text) = env::var(THRESHOLD_VARIABLE) else {
        return Ok(THRESHOLD);
    };
    match text.parse() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(DaemonError::Options(format!(
            "{THRESHOLD_VARIABLE} must be a number from 0 to 1, not {text:?}"
        ))),
    }
}

async fn watch(shared: Shared) {
    let mut reads_seen = 0;
    let mut period = BUSY_PERIOD;
    loop {
        tokio::time::sleep(period).await;
        let (workers, reads) = {
            let daemon = shared.borrow();
            (!daemon.workers().is_empty(), daemon.reads)
        };
        if !workers {
            return;
        }
        let relieved = with(&shared, Daemon::check_memory);
        period = match relieved {
            true => RELIEF_PERIOD,
            false if reads == reads_seen => QUIET_PERIOD,
            false => BUSY_PERIOD,
        };
        reads_seen = reads;
    }
}

impl Daemon {
    /// Watch the memory as long as there are workers.
    pub(super) fn watch_memory(&mut self) {
        if self.monitor.as_ref().is_none_or(Task::is_finished) {
            let shared = self.shared();
            self.monitor = Some(Task::spawn(watch(Rc::clone(&shared))));
        }
    }

    /// Tell the machine if memory is short. Whether it was.
    fn check_memory(&mut self) -> bool {
        let Some(usage) = self.memory.read() else {
            return false;
        };
        if usage.fraction() <= self.memory_threshold {
            return false;
        }
        let workers = self.worker_pids();
        let resident = |(process, pid)| Some((process, resident_bytes(pid)?));
        let workers = workers.into_iter().filter_map(resident).collect();
        let detail = describe(usage, self.memory_threshold);
        self.tell_node(Input::MemoryPressure { detail, workers });
        true
    }
}

fn describe(usage: Usage, threshold: f64) -> String {
    let gib = |bytes: u64| bytes as f64 / (1 << 30) as f64;
    format!(
        "{:.2} of {:.2} GiB of memory are in use, which is {:.1} % and over the threshold of {:.1} % \
         ({THRESHOLD_VARIABLE} sets it)",
        gib(usage.used),
        gib(usage.limit),
        usage.fraction() * 100.0,
        threshold * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_told_the_numbers() {
        let text = describe(Usage { limit: 8 << 30, used: 31 << 28 }, 0.95);
        assert_eq!(
            text,
            "7.75 of 8.00 GiB of memory are in use, which is 96.9 % and over the threshold of 95.0 % \
             (SHOAL_MEMORY_THRESHOLD sets it)"
        );
    }
}
