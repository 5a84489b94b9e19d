//! Drivers coming and being let in.

use shoal_core::Time;
use shoal_core::ids::{JobId, NodeId, ProcessId};
use shoal_core::node;

use super::{Cluster, Event, HostState, micros};
use crate::Content;

/// A driver that was announced.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    host: usize,
    namespace: String,
}

impl<C: Content> Cluster<C> {
    /// A driver comes to a machine at a time; its number, for [`super::Call::Born`]. It waits for the
    /// machine's daemon.
    pub fn connect_driver(&mut self, host: usize, at: Time, namespace: &str) -> usize {
        let number = self.drivers.len();
        self.drivers.push(Driver { host: host % self.hosts.len(), namespace: namespace.to_string() });
        self.schedule(at, Event::DriverComes(number));
        number
    }

    pub(super) fn driver_comes(&mut self, number: usize) {
        let Driver { mut host, namespace } = self.drivers[number].clone();
        if !self.hosts[host].has_daemon {
            host = 0;
        }
        let HostState::Member(node) = self.hosts[host].state else {
            let again = self.now() + self.random.span(micros(1), micros(100_000));
            self.schedule(again, Event::DriverComes(number));
            return;
        };
        if let Some(daemon) = self.nodes.get_mut(&node) {
            daemon.waiting_drivers.insert(number);
        }
        let input = node::Input::DriverConnected {
            connection: number as u64,
            pid: 1000 + number as u32,
            namespace,
            prestart: self.random.between(0, 2) as u32,
            launch: bytes::Bytes::new(),
        };
        self.tell_node(node, input);
    }

    /// The daemon lets a driver in: its program begins.
    pub(super) fn driver_in(&mut self, node: NodeId, number: usize, process: ProcessId, job: JobId) {
        if let Some(daemon) = self.nodes.get_mut(&node)
            && daemon.waiting_drivers.remove(&number)
        {
            self.spawn(process, job, Some(number));
        }
    }
}
