//! The daemon as a process: what it lets in, carries, starts, and leaves behind.

mod end;
mod frames;
mod greeting;
mod links;
mod output;
mod store;
mod support;
mod workers;
