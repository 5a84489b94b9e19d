//! How often nodes are told of each other, and how long they guess what is free elsewhere meanwhile.

use crate::machine::Span;

/// At most one view in this time for each [`NODES_PER_INTERVAL`] nodes.
pub(crate) const VIEW_EVERY: Span = Span::from_millis(100);

/// A change is told to all nodes, so what changes costs the square of them.
pub(crate) const NODES_PER_INTERVAL: u64 = 64;

/// How long a guess counts at least if nothing is heard of the node meanwhile.
const GUESSED_AT_LEAST: Span = Span::from_secs(1);

/// How long the head gathers changes of so many nodes.
pub(crate) fn interval(every: Span, nodes: usize) -> Span {
    Span(every.0 * (nodes as u64).div_ceil(NODES_PER_INTERVAL).max(1))
}

/// How long a guess counts in a cluster of so many nodes: longer in a large one, for the news is so old that who gave
/// it up asks the same full nodes again. Until there is news would be too long for what becomes free meanwhile.
pub(crate) fn guessed_for(nodes: usize) -> Span {
    Span(interval(VIEW_EVERY, nodes).0 / 4).max(GUESSED_AT_LEAST)
}

/// Whether that nothing has changed is news, too, for those who guess: otherwise they give up sooner.
pub(crate) fn tells_all(pause: Span) -> bool {
    pause < GUESSED_AT_LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_grow_rare_with_the_number_of_nodes_and_guesses_old() {
        let millis = |span: Span| span.0 / 1_000_000;
        let sizes = [0, 1, 64, 65, 1_000, 10_000];
        let intervals = sizes.map(|nodes| millis(interval(VIEW_EVERY, nodes)));
        assert_eq!(intervals, [100, 100, 100, 200, 1_600, 15_700]);
        assert_eq!(sizes.map(|nodes| millis(guessed_for(nodes))), [1_000, 1_000, 1_000, 1_000, 1_000, 3_925]);
    }
}
