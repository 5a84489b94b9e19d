//! `shoal status`.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use shoal_runtime::daemon::client;
use shoal_runtime::daemon::session::{self, Description};

use crate::Failure;
use crate::options::StatusOptions;

/// Show what a node says.
pub(crate) fn status(options: &StatusOptions) -> Result<(), Failure> {
    let node = &node_to_ask(&options.temp.path, options.pid)?;
    let text = client::status(node)
        .map_err(|error| Failure::Failed(format!("the node (pid {}) does not answer: {error}", node.pid)))?;
    if options.json {
        println!("{text}");
        return Ok(());
    }
    let document = serde_json::from_str(&text)
        .map_err(|error| Failure::Failed(format!("the node's answer is no JSON: {error}")))?;
    print!("{}", describe(&document));
    Ok(())
}

/// A node on this machine that can be asked about its cluster: the one whose daemon has this process id.
/// Without one, a node that everybody may join comes first; one of a single driver is better than none.
pub(crate) fn node_to_ask(temp: &Path, pid: Option<u32>) -> Result<Description, Failure> {
    let mut nodes = session::live(temp);
    nodes.sort_by_key(|node| node.owned);
    nodes.retain(|node| pid.is_none_or(|pid| node.pid == pid));
    nodes.into_iter().next().ok_or_else(|| match pid {
        Some(pid) => Failure::Failed(format!("no node's daemon has the process id {pid}")),
        None => Failure::Failed(String::from("no node runs; `shoal start --head` starts one")),
    })
}

/// The document as text.
fn describe(document: &Value) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{arguments}");
    };
    let string = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    line(format_args!("Shoal {}, session {}", string(&document["version"]), string(&document["session"])));
    line(format_args!("Drivers: {}", document["drivers"]));

    line(format_args!("\nNodes"));
    for node in array(&document["nodes"]) {
        let state = if node["alive"] == true { "alive" } else { "dead" };
        let draining = describe_drain(&node["draining"]);
        let (name, host) = (string(&node["name"]), string(&node["host"]));
        let at = if name == host { host } else { format!("{name} on {host}") };
        line(format_args!("  {} {at} ({state}{draining})", node["node"]));
        for (name, total) in node["total"].as_object().into_iter().flatten() {
            let total = total.as_f64().unwrap_or(0.0);
            let used = total - node["free"][name].as_f64().unwrap_or(0.0);
            if is_bytes(name) {
                line(format_args!("    {name}: {} of {} used", bytes(used), bytes(total)));
            } else {
                line(format_args!("    {name}: {used} of {total} used"));
            }
        }
    }

    line(format_args!("\nWorkers: {}", array(&document["workers"]).len()));
    for worker in array(&document["workers"]) {
        let (pid, job) = (&worker["pid"], &worker["job"]);
        line(format_args!("  pid {pid}, job {job}: {}", string(&worker["state"])));
    }
    line(format_args!("\nActors: {}", array(&document["actors"]).len()));
    for actor in array(&document["actors"]) {
        let name = string(&actor["name"]);
        let name = if name.is_empty() { name } else { format!(" {name:?}") };
        let (class, state) = (string(&actor["class"]), string(&actor["state"]));
        line(format_args!("  {class}{name}, job {}, pid {}: {state}", actor["job"], actor["pid"]));
    }

    let store = &document["store"];
    let amount = |name: &str| bytes(store[name].as_f64().unwrap_or(0.0));
    line(format_args!("\nObject store"));
    line(format_args!(
        "  {} of {} used by {} objects, {} pinned",
        amount("used"),
        amount("capacity"),
        store["objects"],
        amount("pinned")
    ));
    line(format_args!(
        "  {} on disk; {} spilled and {} restored so far",
        amount("spilled"),
        amount("spilled_total"),
        amount("restored_total")
    ));
    line(format_args!("  {} objects are kept by no other node", store["kept"]));
    text
}

/// What the list of nodes says of one that is draining.
fn describe_drain(drain: &Value) -> String {
    let mut text = String::new();
    if drain.is_object() {
        text.push_str(", draining");
        if let Some(seconds) = drain["deadline_seconds"].as_f64() {
            let _ = write!(text, " within {seconds} s");
        }
        if let Some(reason) = drain["reason"].as_str().filter(|reason| !reason.is_empty()) {
            let _ = write!(text, ": {reason}");
        }
    }
    text
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_bytes(resource: &str) -> bool {
    resource.ends_with("memory")
}

fn bytes(amount: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = amount;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{amount} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_reads_well() {
        let document = json!({
            "version": "1.2.3", "session": "/tmp/shoal-0/session-1", "pid": 5, "node": 1, "drivers": 2,
            "nodes": [{
                "node": 1, "alive": true, "name": "front desk", "host": "here",
                "total": {"CPU": 4.0, "memory": 2147483648.0},
                "free": {"CPU": 2.5, "memory": 2147483648.0},
                "labels": {},
            }, {
                "node": 2, "alive": true, "name": "there", "host": "there",
                "total": {}, "free": {}, "labels": {},
                "draining": {"deadline_seconds": 90.0, "reason": "new disks"},
            }],
            "workers": [{"process": 4294967297_u64, "pid": 77, "job": 1, "state": "leased"}],
            "actors": [
                {"class": "Counter", "name": "c", "job": 1, "pid": 78, "state": "Alive"},
                {"class": "Other", "name": "", "job": 2, "pid": 0, "state": "Starting"},
            ],
            "store": {
                "capacity": 1048576, "used": 1536, "pinned": 0, "objects": 3,
                "spilled": 0, "spilled_total": 10, "restored_total": 0,
                "kept": 2,
            },
        });
        let expected = "\
Shoal 1.2.3, session /tmp/shoal-0/session-1
Drivers: 2

Nodes
  1 front desk on here (alive)
    CPU: 1.5 of 4 used
    memory: 0 B of 2.0 GiB used
  2 there (alive, draining within 90 s: new disks)

Workers: 1
  pid 77, job 1: leased

Actors: 2
  Counter \"c\", job 1, pid 78: Alive
  Other, job 2, pid 0: Starting

Object store
  1.5 KiB of 1.0 MiB used by 3 objects, 0 B pinned
  0 B on disk; 10 B spilled and 0 B restored so far
  2 objects are kept by no other node
";
        assert_eq!(describe(&document), expected);
    }
}
