//! Schedules that once failed are clean for ever.

use std::path::Path;

use shoal_sim_tests::run::run;
use shoal_sim_tests::scenario::Scenario;

#[test]
fn stored_schedules_are_clean() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of stored schedules") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        let scenario: Scenario = toml::from_str(&text).expect("a scenario");
        let report = run(&scenario, false);
        if let Some(violation) = report.violation {
            panic!("{}: {}\nreplay: cargo sim -- {}", violation.property, violation.detail, path.display());
        }
        count += 1;
    }
    assert!(count > 0, "there are stored schedules in {}", folder.display());
}
