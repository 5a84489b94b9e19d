//! What a machine takes for the time.

use shoal_core::Time;

use super::HostSettings;

/// A clock that is ahead, and drifts, and never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    ahead: u64,
    drift: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    pub(super) fn new(settings: &HostSettings) -> Clock {
        // A clock that runs twice or half as fast is not skewed but broken.
        let drift = settings.clock_drift.clamp(-500_000, 500_000);
        Clock { ahead: settings.clock_ahead_micros * 1_000, drift }
    }

    /// What the clock shows at a moment.
    pub(super) fn shows(self, now: Time) -> Time {
        if self.drift == 0 {
            return Time(now.0 + self.ahead);
        }
        let drifted = i128::from(now.0) * i128::from(self.drift) / MILLION;
        Time((i128::from(now.0) + drifted) as u64 + self.ahead)
    }

    /// The first moment at which the clock shows this.
    pub(super) fn moment(self, shown: Time) -> Time {
        let ran = shown.0.saturating_sub(self.ahead);
        if self.drift == 0 {
            return Time(ran);
        }
        let guess = i128::from(ran) * MILLION / (MILLION + i128::from(self.drift));
        let mut moment = Time((guess as u64).saturating_sub(2));
        while self.shows(moment) < shown {
            moment.0 += 1;
        }
        moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_due_at_the_moment_that_is_computed_for_it_and_not_before() {
        for drift in [-300_000, -17, 0, 1, 999, 400_000] {
            let settings =
                HostSettings { clock_ahead_micros: 77, clock_drift: drift, ..HostSettings::default() };
            let clock = Clock::new(&settings);
            for shown in (77_000..1_000_000_000).step_by(9_999_991) {
                let moment = clock.moment(Time(shown));
                assert!(clock.shows(moment) >= Time(shown), "drift {drift}");
                assert!(moment.0 == 0 || clock.shows(Time(moment.0 - 1)) < Time(shown), "drift {drift}");
            }
        }
    }
}
