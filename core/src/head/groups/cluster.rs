//! A head with a log and real nodes, over sessions that lose nothing while both ends live: groups come
//! and go, nodes join and die, the head dies and another one takes over, at any moment.

use alloc::vec::Vec;
use proptest::prelude::{prop, proptest};

use super::world::World;
use crate::group::GroupStrategy;
use crate::machine::Span;

fn one_of(world: &World, pick: usize) -> u32 {
    let nodes = world.nodes();
    nodes[pick % nodes.len()]
}

/// Time passes, in which the head hears of the first node.
fn idle(world: &mut World, span: Span) {
    while world.finish_write() || world.go_up(1) {}
    world.pass(world.now() + span);
}

/// Everything that is under way arrives, and time passes.
fn settle(world: &mut World, span: Span) {
    let end = world.now() + span;
    while world.now() < end {
        world.deliver_all().expect("groups are opened whole");
        world.pass(world.now() + Span::from_millis(50));
    }
}

const STRATEGIES: [GroupStrategy; 4] =
    [GroupStrategy::Pack, GroupStrategy::Spread, GroupStrategy::StrictPack, GroupStrategy::StrictSpread];

proptest! {
    #[test]
    fn groups_are_whole_in_the_end_and_never_open_in_part(
        steps in prop::collection::vec((0u8..24, 0usize..64, 0usize..64), 1..120),
    ) {
        let mut world = World::default();
        let mut groups = 0;
        world.join(4);
        settle(&mut world, Span::from_secs(1));
        for (kind, pick, other) in steps {
            match kind {
                0 | 1 => {
                    let cpus: Vec<i64> = (0..1 + other % 3).map(|bundle| 1 + ((other + bundle) % 3) as i64).collect();
                    groups += 1;
                    world.create(groups, STRATEGIES[pick % 4], &cpus);
                }
                2 if groups > 0 => world.remove(1 + pick as u64 % groups),
                3 if world.nodes().len() < 6 && !world.is_writing() => world.join(4),
                4 => {
                    let id = one_of(&world, pick);
                    // The maker lives on the first node.
                    if id != 1 && world.nodes().len() > 2 {
                        world.kill(id);
                    }
                }
                5 if other % 3 == 0 => world.restart(pick % 2 == 0),
                6 => idle(&mut world, Span::from_millis((pick * other) as u64)),
                7 => settle(&mut world, Span::from_millis(pick as u64 * 40)),
                8..=11 => {
                    world.finish_write();
                }
                _ => {
                    let id = one_of(&world, pick);
                    match other % 2 == 0 {
                        true => world.go_up(id),
                        false => world.go_down(id).expect("groups are opened whole"),
                    };
                }
            }
        }
        // By then a head knows who is dead.
        settle(&mut world, Span::from_secs(12));
        for _ in 0..4 {
            world.join(64);
        }
        settle(&mut world, Span::from_secs(5));
        world.settled().expect("everybody knows the same");
        for number in 1..=groups {
            assert!(world.told(number).is_some(), "nothing became of group {number}");
        }
    }
}
