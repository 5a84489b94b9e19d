//! The example says what `docs/embedding.md` says, and prints what it says.

use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of the blocks of one kind.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let fence = format!("```{kind}\n");
    let rest = text.split(&fence).skip(1);
    rest.map(|rest| String::from(rest.split("```").next().unwrap_or_default())).collect()
}

#[test]
fn the_text_quotes_the_program() {
    let mut program = String::new();
    for file in ["clock", "daemon", "functions", "main", "process", "story", "switchboard"] {
        program += &read(&format!("src/{file}.rs"));
    }
    let quotes = blocks(&read("../../docs/embedding.md"), "rust");
    assert!(quotes.len() > 8, "the text quotes the program");
    for quote in quotes {
        assert!(program.contains(&quote), "this is not in the example:\n{quote}");
    }
}

#[test]
fn the_program_prints_what_the_text_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_embed")).output().expect("the example runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!([said.as_ref()], blocks(&read("../../docs/embedding.md"), "output").as_slice(), "{errors}");
}
