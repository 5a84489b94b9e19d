//! Where a node looks for the head of its cluster.

use alloc::vec::Vec;

use crate::machine::Span;

/// The first pause after every place was tried in vain; it doubles up to the second one.
const PAUSE: Span = Span::from_millis(20);
const PAUSE_MAX: Span = Span::from_millis(500);
/// So many places are remembered besides those that the node was told of at its start.
const LEARNED_MAX: usize = 8;

/// Looks in one place after another, begins with where the head was found last, and believes hints.
///
/// Between two rounds it pauses. A hint is tried next and at once, but not twice in a round: somebody who takes
/// a dead head for the one that acts must not make anybody look for it without a pause.
#[derive(Clone, Debug)]
pub struct Search<P> {
    /// The next one first.
    places: Vec<Place<P>>,
    pause: Span,
}

#[derive(Clone, Debug)]
struct Place<P> {
    at: P,
    /// It was tried in this round.
    tried: bool,
    /// The node was told of it at its start.
    given: bool,
}

impl<P: Clone + Eq> Search<P> {
    /// Look in these places first.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new(places: impl IntoIterator<Item = P>) -> Search<P> {
        let mut search = Search { places: Vec::new(), pause: PAUSE };
        for at in places {
            if search.places.iter().all(|place| place.at != at) {
                search.places.push(Place { at, tried: false, given: true });
            }
        }
        assert!(!search.places.is_empty(), "there is no place to look for the head");
        search
    }

    /// Nobody knows where, before somebody says so.
    pub fn nowhere() -> Search<P> {
        Search { places: Vec::new(), pause: PAUSE }
    }

    /// Where to look now, or where it was found; nowhere before anybody has said where it may be.
    pub fn place(&self) -> Option<&P> {
        self.places.first().map(|place| &place.at)
    }

    /// Whether it may be found in other places, too.
    pub fn has_choice(&self) -> bool {
        self.places.len() > 1
    }

    /// Somebody says that it is there. Whether that changes where to look.
    pub fn hint(&mut self, at: P) -> bool {
        if self.place() == Some(&at) {
            return false;
        }
        let known = self.places.iter().position(|place| place.at == at);
        let place = match known {
            Some(index) if self.places[index].tried => return false,
            Some(index) => self.places.remove(index),
            None => Place { at, tried: false, given: false },
        };
        self.places.insert(0, place);
        let learned = self.places.iter().filter(|place| !place.given).count();
        if learned > LEARNED_MAX
            && let Some(oldest) = self.places.iter().rposition(|place| !place.given)
        {
            self.places.remove(oldest);
        }
        true
    }

    /// The head itself says that it is there: that counts though it was not found there before.
    pub fn called(&mut self, at: P) {
        self.begin_round();
        self.hint(at);
    }

    /// It was found.
    pub fn found(&mut self) {
        self.begin_round();
        self.pause = PAUSE;
    }

    /// It is not there, but perhaps where somebody there says. How long to wait before looking in the next place.
    pub fn failed(&mut self, said: Option<P>) -> Span {
        if let Some(place) = self.places.first_mut() {
            place.tried = true;
        }
        if said.is_some_and(|said| self.hint(said)) {
            return Span(0);
        }
        let Some(next) = self.places.iter().position(|place| !place.tried) else {
            self.begin_round();
            if !self.places.is_empty() {
                self.places.rotate_left(1);
            }
            let pause = self.pause;
            self.pause = Span(pause.0 * 2).min(PAUSE_MAX);
            return pause;
        };
        let failed = self.places.remove(0);
        self.places.push(failed);
        // It has moved up by one.
        let next = self.places.remove(next - 1);
        self.places.insert(0, next);
        Span(0)
    }

    fn begin_round(&mut self) {
        self.places.iter_mut().for_each(|place| place.tried = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at<P: Clone + Eq>(search: &Search<P>) -> P {
        search.place().expect("a place").clone()
    }

    /// Look in vain so often; where that was, and the pauses in milliseconds.
    fn rounds(search: &mut Search<char>, times: usize) -> Vec<(char, u64)> {
        (0..times).map(|_| (at(search), search.failed(None).0 / Span::from_millis(1).0)).collect()
    }

    #[test]
    fn every_place_is_tried_and_then_there_is_a_pause() {
        let mut search = Search::new(['a', 'b', 'a', 'c']);
        let expected = [('a', 0), ('b', 0), ('c', 20), ('a', 0), ('b', 0), ('c', 40), ('a', 0)];
        assert_eq!(rounds(&mut search, 7), expected);
        search.found();
        assert_eq!(at(&search), 'b');
        assert_eq!(rounds(&mut search, 4), [('b', 0), ('c', 0), ('a', 20), ('b', 0)]);
        let mut search = Search::new(['a']);
        assert!(!search.has_choice());
        let pauses = [20, 40, 80, 160, 320, 500, 500].map(|pause| ('a', pause));
        assert_eq!(rounds(&mut search, 7), pauses);
    }

    #[test]
    fn it_may_begin_nowhere() {
        let mut search = Search::nowhere();
        assert_eq!((search.place(), search.has_choice()), (None, false));
        assert_eq!(search.failed(None), PAUSE, "it was not found");
        assert!(search.hint('a'));
        assert_eq!(rounds(&mut search, 2), [('a', 40), ('a', 80)]);
        let mut search = Search::nowhere();
        search.called('b');
        search.found();
        assert_eq!(at(&search), 'b');
    }

    #[test]
    fn a_hint_is_tried_next_but_not_twice_in_a_round() {
        let mut search = Search::new(['a', 'b']);
        assert!(!search.hint('a'), "it looks there already");
        assert_eq!(search.failed(Some('x')), Span(0));
        assert_eq!(rounds(&mut search, 1), [('x', 0)]);
        assert!(!search.hint('x'), "it was not there");
        assert!(!search.hint('a'), "nor there");
        assert_eq!(rounds(&mut search, 4), [('b', 20), ('a', 0), ('x', 0), ('b', 40)]);
        search.failed(None);
        search.called('a');
        assert_eq!(at(&search), 'a', "who is there says so");
        search.found();
        assert_eq!(at(&search), 'a');
    }

    #[test]
    fn a_hint_that_is_wrong_again_and_again_is_followed_once_in_a_round() {
        let mut search = Search::new(['s']);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let at = at(&search);
            let pause = search.failed((at == 's').then_some('x'));
            seen.push((at, pause.0 / Span::from_millis(1).0));
        }
        assert_eq!(seen, [('s', 0), ('x', 20), ('s', 0), ('x', 40), ('s', 0), ('x', 80)]);
    }

    #[test]
    fn what_it_was_told_at_the_start_is_never_forgotten() {
        let mut search = Search::new([0]);
        for place in 1..100 {
            search.found();
            search.hint(place);
        }
        let mut seen: Vec<i32> = search.places.iter().map(|place| place.at).collect();
        seen.sort_unstable();
        assert_eq!(seen, vec![0, 92, 93, 94, 95, 96, 97, 98, 99]);
    }
}
