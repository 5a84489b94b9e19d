//! `shoal drain-node`.

use shoal_core::Span;
use shoal_core::ids::NodeId;
use shoal_core::message::Drain;
use shoal_runtime::daemon::client;

use crate::Failure;
use crate::options::DrainOptions;
use crate::status;

/// Have a node of the cluster emptied, or call that off. Any node of the cluster can be asked on whose
/// machine this runs; the head decides.
pub(crate) fn drain(options: &DrainOptions) -> Result<(), Failure> {
    let asked = status::node_to_ask(&options.temp.path, None)?;
    let answer = client::drain(&asked, NodeId(options.node), wanted(options));
    let answer = answer
        .map_err(|error| Failure::Failed(format!("the node (pid {}) does not answer: {error}", asked.pid)))?;
    answer.map_err(Failure::Failed)?;
    if options.cancel {
        println!("Node {} takes new work again.", options.node);
    } else {
        println!("Node {} takes no new work.", options.node);
    }
    Ok(())
}

fn wanted(options: &DrainOptions) -> Option<Drain> {
    let nanoseconds =
        |deadline: std::time::Duration| u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX / 2);
    let grace = options.deadline.map(|deadline| Span(nanoseconds(deadline).min(u64::MAX / 2)));
    (!options.cancel).then(|| Drain { grace, reason: options.reason.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command};
    use clap::Parser;

    fn parse(arguments: &[&str]) -> Result<(u32, Option<Drain>), clap::Error> {
        let line = ["shoal", "drain-node"].iter().chain(arguments);
        match Command::try_parse_from(line)?.action {
            Action::DrainNode(options) => Ok((options.node, wanted(&options))),
            other => panic!("not a drain: {other:?}"),
        }
    }

    #[test]
    fn arguments_say_which_node_until_when_and_why() {
        let drain = |grace, reason: &str| Some(Drain { grace, reason: String::from(reason) });
        let all = parse(&["3", "--deadline=1.5", "--reason=new disks"]).expect("valid");
        assert_eq!(all, (3, drain(Some(Span::from_millis(1_500)), "new disks")));
        assert_eq!(parse(&["3"]).expect("valid"), (3, drain(None, "")));
        assert_eq!(parse(&["3", "--cancel"]).expect("valid"), (3, None));
        let (_, longest) = parse(&["1", "--deadline=1e18"]).expect("valid");
        assert_eq!(longest, drain(Some(Span(u64::MAX / 2)), ""));
        for wrong in [&["0"][..], &["a"], &["1", "--deadline=-1"], &["1", "--cancel", "--deadline=1"], &[]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
