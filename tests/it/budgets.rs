//! The budgets of tests/bench: each of them can break, none is above what was promised unless that is said, and README.md tells
//! what docs/measurements.md does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::bench::budget::{Budget, all};
use crate::bench::idle::{Wakes, changes, writes, written};
use crate::bench::report::{Figure, Marks, broken, summary, table};
use crate::memory::PEAK_KB;

/// Promises that are known not to be kept, with the page that says why.
const NOT_KEPT: [(&str, &str); 1] = [(
    "traffic of an idle hour: polls held for 240 s",
    "docs/decisions/0014-idle-traffic-is-more-than-was-promised.md",
)];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[test]
fn each_budget_holds_what_is_at_it_and_breaks_with_one_more() {
    for budget in all() {
        let (most, more) = (budget.most, budget.most + budget.unit.step());
        let figures =
            [("less", 0.0), ("the most", most), ("one more", more), ("no number", f64::NAN)].map(|(what, measured)| {
                let figure = Figure::by(budget.clone(), what, measured);
                assert!(table(&[Figure::by(budget.clone(), what, measured)]).contains(&format!("| {what} | ")));
                figure
            });
        let told = broken(&figures);
        assert_eq!(told.len(), 2, "{}: {told:?}", budget.about);
        assert!(told[0].starts_with("one more: ") && told[0].contains(&budget.show()), "{}: {told:?}", budget.about);
        assert!(told[1].starts_with("no number: "), "{}: {told:?}", budget.about);
        let shown = table(&figures);
        assert_eq!((shown.matches("| yes |").count(), shown.matches("| **no** |").count()), (2, 2), "{shown}");
    }
    assert_eq!(broken(&[Figure::seen("what is only shown", "1,000,000 kB")]), Vec::<String>::new());
}

#[test]
fn no_budget_is_above_what_was_promised_unless_a_decision_says_so() {
    let mut names = BTreeSet::new();
    for Budget { about, most, promised, .. } in all() {
        assert!(names.insert(about.clone()), "{about} is there twice");
        let decision = NOT_KEPT.iter().find(|(known, _)| *known == about).map(|(_, page)| read(page));
        assert_eq!(promised.is_some_and(|promised| most > promised), decision.is_some(), "{about}");
    }
    for (known, _) in NOT_KEPT {
        assert!(names.contains(known), "{known}");
    }
    // Whatever is tried on purpose is held to the promise itself (tests/it/memory.rs), and the worst of it to less.
    let peak = all().into_iter().find(|budget| budget.about.contains("hostile")).unwrap();
    assert!(peak.show().ends_with(&format!("({},{} kB promised)", PEAK_KB / 1000, PEAK_KB % 1000)), "{}", peak.show());
    // The four binaries and the image of cross/budget are among them.
    assert_eq!(names.iter().filter(|name| name.starts_with("binary, ")).count(), 4, "{names:?}");
    assert!(names.contains("image, more than its binary"), "{names:?}");
}

#[test]
fn of_what_one_budget_holds_the_summary_tells_the_worst() {
    let budget = all().into_iter().find(|budget| budget.about.starts_with("memory, peak over")).unwrap();
    let figure = |measured: f64| Figure::by(budget.clone(), "x", measured).along("and more");
    let told = summary(&[figure(4_000.0), figure(4_668.0), figure(4_100.0)]);
    let lines: Vec<&str> = told.lines().skip(2).collect();
    assert_eq!(lines, [format!("| {} | 4,668 kB | {} |", budget.about, budget.show())]);
    let over = summary(&[figure(4_000.0), figure(budget.most + 1.0)]);
    assert!(over.contains(&format!("| **{}** |", budget.unit.show(budget.most + 1.0))), "{over}");
}

/// What is left of a table between its marks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn the_readme_tells_what_was_measured() {
    let (readme, measurements) = (read("README.md"), read("docs/measurements.md"));
    let [_, told, _] = Marks::SUMMARY.apart(&readme).expect("README.md has the marks of its table");
    let [_, whole, _] = Marks::ALL.apart(&measurements).expect("docs/measurements.md has those of its own");
    Marks::DRAWN.apart(&measurements).expect("and those of the drawing");
    let of = |text: &str| text.lines().find(|line| line.starts_with("Measured on ")).unwrap().to_owned();
    assert_eq!(of(told), of(whole), "they were measured at once");
    let (told, whole) = (rows(told), rows(whole));
    assert!(told.len() > 10, "{told:?}");
    // Each row of the one is the worst row of its budget in the other, as it was shown there.
    for row in &told {
        let [about, measured, budget] = row.as_slice() else { panic!("{row:?}") };
        let is_it = |other: &&Vec<String>| {
            other[2] == *budget && other[1].split(" (").next() == Some(measured.trim_matches('*'))
        };
        assert!(whole.iter().any(|other| is_it(&other)), "{about}: {measured} is not in docs/measurements.md");
    }
    // And whatever is always measured is told, with the budget that it has today.
    for budget in all().iter().filter(|budget| budget.is_told) {
        let row = told.iter().find(|row| row[0] == budget.about);
        let may_be_missing = budget.about.starts_with("binary, a") || budget.about.starts_with("image");
        match row {
            Some(row) => assert_eq!(row[2], budget.show(), "{}: tests/run --bench", budget.about),
            None => assert!(may_be_missing, "{} is not in README.md: tests/run --bench", budget.about),
        }
    }
}

#[test]
fn what_an_idle_agent_does_is_seen() {
    // A thread that goes on, one that is new, one that ended meanwhile.
    let mut wakes = Wakes::from(&[("1", 100), ("2", 7)]);
    let now =
        |seen: &[(&str, u64)]| seen.iter().map(|(thread, count)| ((*thread).to_owned(), *count)).collect::<Vec<_>>();
    wakes.add(now(&[("1", 101), ("3", 2)]));
    wakes.add(now(&[("1", 101)]));
    wakes.add(now(&[("1", 104), ("3", 2)]));
    assert_eq!(wakes.count, 1 + 2 + 3);

    let calls = ["watch operations", "get /version", "list secrets", "patch configmaps", "create events", "delete x"];
    assert_eq!(writes(&calls.map(str::to_owned)), 3);
    assert_eq!(writes(&[]), 0);

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["same", "changed", "gone"] {
        fs::write(path(name), "x").unwrap();
    }
    let before = written(directory.path());
    assert_eq!(changes(&before, &written(directory.path())), 0);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(path("changed")).unwrap().set_modified(later).unwrap();
    fs::remove_file(path("gone")).unwrap();
    fs::write(path("new"), "x").unwrap();
    assert_eq!(changes(&before, &written(directory.path())), 3);
}
