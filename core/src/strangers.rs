//! Who may knock: connections whose other end is not known yet, and which of them go when there are too many.

use alloc::collections::BTreeMap;
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};

use crate::machine::{Span, Time};

/// For so long nobody has to go for a newcomer from the same place. An introduction takes less, and when very many
/// nodes of one host come together those who came first shall get to its end.
const UNDISTURBED: Span = Span::from_secs(1);

/// Connections whose other end has shown no certificate and proved nothing, at most so many at a time.
///
/// When all places are taken, a newcomer gets one from whoever comes from where most of them come from. So one host
/// that holds as many as it can keeps out nobody who comes from elsewhere. A newcomer from that very host gets the
/// place of the one that has been there longest, once that one had the time that an introduction takes: who is
/// silent does not keep its neighbours out either.
#[derive(Clone, Debug)]
pub struct Strangers {
    places: usize,
    next: u64,
    /// In the order in which they came.
    inside: BTreeMap<Ticket, Stranger>,
}

/// Names one of the [`Strangers`]; never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug)]
struct Stranger {
    origin: Origin,
    since: Time,
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// It may introduce itself.
    Admitted(Ticket),
    /// It may, and another has to go.
    InPlaceOf {
        /// The newcomer.
        admitted: Ticket,
        /// Who has to go, and has left already as far as places are concerned.
        displaced: Ticket,
    },
    /// There is no place.
    TurnedAway,
}

/// What counts as one place to come from: an IPv4 address, or what one site gets of IPv6 addresses.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Origin {
        Origin(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address => address,
        })
    }
}

impl Strangers {
    /// Room for so many at a time.
    ///
    /// # Panics
    ///
    /// If there is room for none.
    pub fn new(places: usize) -> Strangers {
        assert!(places > 0, "nobody could ever introduce themselves");
        Strangers { places, next: 0, inside: BTreeMap::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inside.len()
    }

    /// Somebody connects.
    pub fn enter(&mut self, now: Time, address: IpAddr) -> Admission {
        let origin = Origin::from(address);
        if self.inside.len() < self.places {
            return Admission::Admitted(self.admit(origin, now));
        }
        match self.must_go(origin, now) {
            Some(displaced) => {
                self.inside.remove(&displaced);
                Admission::InPlaceOf { admitted: self.admit(origin, now), displaced }
            }
            None => Admission::TurnedAway,
        }
    }

    /// Somebody is known now, or has gone. Who was displaced has left before.
    pub fn leave(&mut self, ticket: Ticket) {
        self.inside.remove(&ticket);
    }

    fn admit(&mut self, origin: Origin, now: Time) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.inside.insert(ticket, Stranger { origin, since: now });
        ticket
    }

    /// Who leaves its place to a newcomer.
    fn must_go(&self, newcomer: Origin, now: Time) -> Option<Ticket> {
        // How many come from each origin, and which of them has been there longest.
        let mut origins: BTreeMap<Origin, (usize, Reverse<Ticket>)> = BTreeMap::new();
        for (ticket, stranger) in &self.inside {
            origins.entry(stranger.origin).or_insert((0, Reverse(*ticket))).0 += 1;
        }
        let beside = origins.get(&newcomer).map_or(0, |(count, _)| *count);
        let (most, Reverse(longest)) = origins.into_values().max()?;
        // Afterwards no more come from the newcomer's origin than from the other one.
        let takes_less = beside + 1 < most;
        (takes_less || now - self.inside[&longest].since >= UNDISTURBED).then_some(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::net::Ipv4Addr;

    const PLACES: usize = 8;
    const SOON: Time = Time(1);
    const LATER: Time = Time(UNDISTURBED.0);

    fn host(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    fn admitted(admission: Admission) -> Ticket {
        match admission {
            Admission::Admitted(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// All places are taken by these, in this order, at the beginning of time.
    fn full(hosts: [u8; PLACES]) -> (Strangers, Vec<Ticket>) {
        let mut strangers = Strangers::new(PLACES);
        let tickets = hosts.map(|number| admitted(strangers.enter(Time(0), host(number))));
        (strangers, tickets.into())
    }

    fn displaced(admission: Admission) -> Ticket {
        match admission {
            Admission::InPlaceOf { displaced, .. } => displaced,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_host_may_take_all_places_that_nobody_else_wants() {
        let (mut strangers, tickets) = full([1; PLACES]);
        assert_eq!(strangers.enter(SOON, host(1)), Admission::TurnedAway);
        strangers.leave(tickets[3]);
        admitted(strangers.enter(SOON, host(1)));
        assert_eq!(strangers.count(), PLACES);
    }

    #[test]
    fn a_host_that_holds_all_places_gives_one_to_each_other_host_at_once() {
        let (mut strangers, tickets) = full([1; PLACES]);
        for number in 2..6 {
            let gone = displaced(strangers.enter(SOON, host(number)));
            assert_eq!(gone, tickets[usize::from(number) - 2], "the one that has been there longest");
            assert_eq!(strangers.count(), PLACES);
        }
    }

    #[test]
    fn it_takes_none_back_however_often_it_tries() {
        let (mut strangers, tickets) = full([1, 1, 1, 1, 1, 1, 1, 2]);
        for millis in 0..10_000 {
            if let Admission::InPlaceOf { displaced, .. } =
                strangers.enter(Time(0) + Span::from_millis(millis), host(1))
            {
                assert_ne!(displaced, tickets[7]);
            }
        }
        assert!(strangers.inside.contains_key(&tickets[7]));
    }

    #[test]
    fn a_neighbour_gets_the_place_of_who_was_silent_for_long() {
        let (mut strangers, tickets) = full([1; PLACES]);
        assert_eq!(strangers.enter(SOON, host(1)), Admission::TurnedAway);
        assert_eq!(displaced(strangers.enter(LATER, host(1))), tickets[0]);
        assert_eq!(displaced(strangers.enter(LATER, host(1))), tickets[1]);
    }

    #[test]
    fn between_hosts_with_as_many_each_who_came_first_has_time() {
        let (mut strangers, tickets) = full([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(strangers.enter(SOON, host(9)), Admission::TurnedAway);
        assert_eq!(displaced(strangers.enter(LATER, host(9))), tickets[0]);
    }

    #[test]
    fn shares_become_even_and_stay_so() {
        let (mut strangers, _) = full([1, 1, 1, 1, 1, 1, 2, 2]);
        while let Admission::InPlaceOf { .. } = strangers.enter(SOON, host(2)) {}
        let of_the_second =
            strangers.inside.values().filter(|inside| inside.origin == host(2).into()).count();
        assert_eq!(of_the_second, PLACES / 2);
        assert_eq!(strangers.enter(SOON, host(1)), Admission::TurnedAway);
    }

    #[test]
    fn who_was_displaced_leaves_nothing_when_it_leaves() {
        let (mut strangers, tickets) = full([1; PLACES]);
        let gone = displaced(strangers.enter(SOON, host(2)));
        assert_eq!(gone, tickets[0]);
        strangers.leave(gone);
        assert_eq!(strangers.count(), PLACES);
    }

    #[test]
    fn addresses_of_one_site_are_one_origin() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::2"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("10.0.0.1"), origin("10.0.0.2"));
    }
}
