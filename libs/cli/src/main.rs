//! The `shoal` command as a program of its own, for machines and tests without Python.

fn main() {
    let mut arguments = std::env::args();
    // The first argument may be anything; this is how the program really can be run again.
    let name = arguments.next().unwrap_or_default();
    let program = std::env::current_exe().map_or(name, |path| path.to_string_lossy().into_owned());
    std::process::exit(shoal_cli::main(vec![program], arguments.collect()));
}
