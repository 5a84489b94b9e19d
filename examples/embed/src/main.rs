//! Shoal's machines in a program of one's own: threads instead of processes, channels instead of
//! sockets, closures instead of Python. `docs/embedding.md` goes through it step by step.
//!
//! `cargo run -p shoal-embed` squares some numbers in parallel and adds them up, while one of the
//! workers dies.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "a program has no outside: `pub` is what its modules show each other")]

mod clock;
mod daemon;
mod functions;
mod process;
mod story;
mod switchboard;

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::channel;

use shoal_core::value::Death;

use crate::clock::Clock;
use crate::daemon::Daemon;
use crate::process::Process;
use crate::switchboard::{Delivery, Switchboard};

fn main() -> Result<(), Box<dyn Error>> {
    let (clock, closures) = (Clock::start(), Arc::new(functions::closures()));
    let (sender, line) = channel();
    let board = Arc::new(Switchboard::new(sender.clone()));
    let daemon = Daemon::new(2, line, board.clone(), closures.clone(), clock);
    let daemon = std::thread::spawn(move || daemon.serve());

    let (answer, accepted) = channel();
    sender.send(Delivery::Knock { answer })?;
    let (id, job, line) = accepted.recv()?;
    let mut driver = Process::new(id, job, line, board.clone(), closures, clock);

    let (square, sum) = (functions::definition("square"), functions::definition("sum"));
    let mut squares = Vec::new();
    for number in 0..20 {
        if number == 7 {
            driver.follow();
        }
        squares.push(driver.submit(&square, number, Vec::new()));
    }
    let total = driver.submit(&sum, 0, squares.clone());
    let value = driver.get(total).map_err(|failure| format!("{failure:?}"))?;
    println!("the squares of 0 to 19 add up to {value}");
    println!("the story of the square of 7:");
    for line in driver.story().lines() {
        println!("  {line}");
    }

    squares.into_iter().chain([total]).for_each(|object| driver.drop_reference(object));
    board.hang_up(id, Death::Exited { code: 0 });
    daemon.join().map_err(|_| "the daemon panicked")?;
    println!("everybody has ended");
    Ok(())
}
