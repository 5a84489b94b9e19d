//! Placement groups that meet on one machine, and have each another one to themselves. When the first machine
//! goes, there is only one place for what each of them has lost: what is left of the others.

use std::rc::Rc;

use shoal_core::group::GroupStrategy;
use shoal_core::resources::{Demand, LabelSelector};

use super::Builder;
use super::builder::{Options, Place, body};
use super::gangs::{bundle, call_each, within};
use crate::program::{Class, Step};
use crate::scenario::{BERTH, ZONE};

pub(super) fn build(b: &mut Builder) {
    // All that there is room for, or one less.
    let most = b.hosts.saturating_sub(1).max(1) as u64;
    let micros = *b.random.pick(&[1_000_000, 4_000_000, 8_000_000]);
    let options = Options { cpu: 0, retries_max: -1, place: Some(Place::Anywhere), ..Options::default() };
    let function = b.function(&options, body(vec![Step::Compute { micros }]));
    let mut makers = Vec::new();
    for _ in 0..b.random.between(2.min(most), most) {
        let bundles = vec![bundle(BERTH, 10_000), bundle(BERTH, 10_000)];
        let steps = within(b, GroupStrategy::StrictSpread, bundles, &function);
        let class = b.class(0, 0, 1, body(vec![]), vec![body(steps)]);
        makers.push(beside_the_hub(&class));
    }
    call_each(b, &makers);
}

/// Whoever makes a group takes it along: not where all of them meet.
fn beside_the_hub(class: &Rc<Class>) -> Rc<Class> {
    let even = LabelSelector { key: String::from(ZONE), values: vec![String::from("even")], excludes: false };
    let placement = Demand { labels: vec![even], ..Demand::default() };
    Rc::new(Class { placement, ..Class::clone(class) })
}
