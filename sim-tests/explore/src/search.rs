//! Breadth-first search through all states of a model, so that what is found first is shortest.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use hashbrown::HashSet;

/// Something that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The property that does not hold.
    pub property: &'static str,
    /// In words.
    pub detail: String,
}

impl Violation {
    /// `property` does not hold.
    pub fn new(property: &'static str, detail: impl Into<String>) -> Violation {
        Violation { property, detail: detail.into() }
    }
}

/// Whether everything is as it must be.
pub type Check<T = ()> = Result<T, Violation>;

/// What happens in a story, line by line; nothing is written unless somebody reads it.
#[derive(Debug, Default)]
pub struct Story {
    lines: Option<Vec<String>>,
}

impl Story {
    /// A story that is kept.
    pub fn told() -> Story {
        Story { lines: Some(Vec::new()) }
    }
    /// The next line, if anybody reads it.
    pub fn line(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
    /// All lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// What is explored: states, and what can happen in each.
pub trait Model {
    /// Equal states go on alike.
    type State: Clone + Hash;
    /// One thing that can happen.
    type Action: Clone;

    /// Where it begins.
    fn start(&mut self, story: &mut Story) -> Check<Self::State>;
    /// Everything that can happen next, in a defined order.
    fn actions(&mut self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// Let it happen. Gives what the state is then, or what is wrong with it.
    fn step(&mut self, state: &Self::State, action: &Self::Action, story: &mut Story) -> Check<Self::State>;
    /// Nothing can happen any more: is that how it must end?
    fn at_end(&mut self, state: &Self::State) -> Check;
    /// How many states its parts have, each counted once, for reports.
    fn parts(&self) -> usize {
        0
    }
}

/// When to stop although there is more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many distinct states.
    pub states: usize,
    /// So many steps from the start.
    pub depth: usize,
    /// After this time.
    pub time: Duration,
}

/// What stopped an exploration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// There is nothing more: every state was reached.
    Complete,
    /// A violation was found.
    Found,
    /// The limit of states.
    States,
    /// The limit of depth.
    Depth,
    /// The limit of time.
    Time,
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// Steps taken, many of which led to states that were known.
    pub steps: u64,
    /// The longest of all shortest ways to a state.
    pub depth: usize,
    /// States in which nothing could happen any more.
    pub ends: usize,
    /// Distinct states of single parts.
    pub parts: usize,
    /// Why it stopped.
    pub stop: Stop,
    /// How long it took.
    pub took: Duration,
    /// What is wrong, if anything, and the shortest story of it.
    pub found: Option<(Violation, Vec<String>)>,
}

/// A state that was reached: from which, by which of its actions.
#[derive(Clone, Copy)]
struct Reached {
    from: u32,
    action: u16,
}

const NOWHERE: u32 = u32::MAX;

/// Explore a model breadth first.
pub fn explore<M: Model>(model: &mut M, limits: Limits) -> Report {
    let began = Instant::now();
    let mut search =
        Search { model, known: HashSet::default(), reached: Vec::new(), steps: 0, ends: 0, depth: 0 };
    let found = search.run(limits, began);
    let (stop, found) = match found {
        Ended::Stopped(stop) => (stop, None),
        Ended::Wrong { way, violation } => (Stop::Found, Some((violation, search.tell(&way)))),
    };
    Report {
        states: search.reached.len(),
        steps: search.steps,
        depth: search.depth,
        ends: search.ends,
        parts: search.model.parts(),
        stop,
        took: began.elapsed(),
        found,
    }
}

struct Search<'a, M> {
    model: &'a mut M,
    known: HashSet<u64, Unhashed>,
    reached: Vec<Reached>,
    steps: u64,
    ends: usize,
    depth: usize,
}

/// `way`: by number, the actions that lead to the violation.
enum Ended {
    Stopped(Stop),
    Wrong { way: Vec<u16>, violation: Violation },
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self, limits: Limits, began: Instant) -> Ended {
        let start = match self.model.start(&mut Story::default()) {
            Ok(start) => start,
            Err(violation) => return Ended::Wrong { way: Vec::new(), violation },
        };
        self.known.insert(hash(&start));
        self.reached.push(Reached { from: NOWHERE, action: 0 });
        let mut level = vec![(0_u32, start)];
        let mut actions = Vec::new();
        while !level.is_empty() {
            if self.depth == limits.depth {
                return Ended::Stopped(Stop::Depth);
            }
            let mut next = Vec::new();
            for (number, state) in level {
                if began.elapsed() > limits.time {
                    return Ended::Stopped(Stop::Time);
                }
                actions.clear();
                self.model.actions(&state, &mut actions);
                if actions.is_empty() {
                    self.ends += 1;
                    if let Err(violation) = self.model.at_end(&state) {
                        return Ended::Wrong { way: self.way(number), violation };
                    }
                }
                for (action, choice) in actions.iter().enumerate() {
                    let action = u16::try_from(action).expect("few things can happen at once");
                    self.steps += 1;
                    match self.model.step(&state, choice, &mut Story::default()) {
                        Ok(state) if self.known.insert(hash(&state)) => {
                            next.push((self.reached.len() as u32, state));
                            self.reached.push(Reached { from: number, action });
                        }
                        Ok(_) => {}
                        Err(violation) => {
                            let mut way = self.way(number);
                            way.push(action);
                            return Ended::Wrong { way, violation };
                        }
                    }
                }
                if self.reached.len() >= limits.states {
                    return Ended::Stopped(Stop::States);
                }
            }
            level = next;
            self.depth += usize::from(!level.is_empty());
        }
        Ended::Stopped(Stop::Complete)
    }

    fn way(&self, mut number: u32) -> Vec<u16> {
        let mut way = Vec::new();
        while let Reached { from, action } = self.reached[number as usize]
            && from != NOWHERE
        {
            way.push(action);
            number = from;
        }
        way.reverse();
        way
    }

    /// Go the way once more and write down what happens.
    fn tell(&mut self, way: &[u16]) -> Vec<String> {
        let mut story = Story::told();
        let mut state = match self.model.start(&mut story) {
            Ok(state) => state,
            Err(_) => return story.into_lines(),
        };
        for (number, action) in way.iter().enumerate() {
            let mut actions = Vec::new();
            self.model.actions(&state, &mut actions);
            story.line(|| format!("{}.", number + 1));
            match self.model.step(&state, &actions[usize::from(*action)], &mut story) {
                Ok(next) => state = next,
                Err(_) => break,
            }
        }
        story.into_lines()
    }
}

fn hash<S: Hash>(state: &S) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Fingerprints are hashes already.
#[derive(Clone, Default)]
struct Unhashed;

impl std::hash::BuildHasher for Unhashed {
    type Hasher = Identity;
    fn build_hasher(&self) -> Identity {
        Identity(0)
    }
}

struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are looked up")
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters that count to three; they must not both be three, and may end nowhere else.
    struct Counters {
        limit: u8,
    }

    impl Model for Counters {
        type State = (u8, u8);
        type Action = bool;

        fn start(&mut self, _: &mut Story) -> Check<(u8, u8)> {
            Ok((0, 0))
        }
        fn actions(&mut self, state: &(u8, u8), actions: &mut Vec<bool>) {
            actions.extend((state.0 < 3).then_some(false));
            actions.extend((state.1 < 3).then_some(true));
        }
        fn step(&mut self, state: &(u8, u8), action: &bool, story: &mut Story) -> Check<(u8, u8)> {
            let next = if *action { (state.0, state.1 + 1) } else { (state.0 + 1, state.1) };
            story.line(|| format!("{next:?}"));
            if next.0 + next.1 > self.limit {
                return Err(Violation::new("limit", format!("{next:?}")));
            }
            Ok(next)
        }
        fn at_end(&mut self, state: &(u8, u8)) -> Check {
            assert_eq!(*state, (3, 3));
            Ok(())
        }
    }

    const LIMITS: Limits = Limits { states: 1_000, depth: 100, time: Duration::from_secs(60) };

    #[test]
    fn every_state_is_reached_once() {
        let report = explore(&mut Counters { limit: 6 }, LIMITS);
        assert_eq!(report.stop, Stop::Complete);
        assert_eq!((report.states, report.steps, report.depth, report.ends), (16, 24, 6, 1));
    }

    #[test]
    fn what_is_wrong_is_found_on_a_shortest_way() {
        let report = explore(&mut Counters { limit: 3 }, LIMITS);
        let (violation, story) = report.found.expect("four is too many");
        assert_eq!(violation.property, "limit");
        assert_eq!(story.iter().filter(|line| line.starts_with('(')).count(), 4);
    }

    #[test]
    fn limits_are_kept_and_told() {
        let stopped = |limits| explore(&mut Counters { limit: 6 }, limits).stop;
        assert_eq!(stopped(Limits { states: 5, ..LIMITS }), Stop::States);
        assert_eq!(stopped(Limits { depth: 2, ..LIMITS }), Stop::Depth);
        assert_eq!(stopped(Limits { time: Duration::ZERO, ..LIMITS }), Stop::Time);
    }
}
