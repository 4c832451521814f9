//! What was measured, judged by its budget, and how it is told: the table of docs/measurements.md and that of README.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::budget::{Budget, Held};
use crate::testbed::job::timestamp;

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) what: String,
    /// As it is shown.
    pub(crate) value: String,
    /// The budget it is held to, and what is held to it.
    judged: Option<(Budget, f64)>,
}

impl Figure {
    /// A figure that one of the budgets holds.
    pub(crate) fn held(held: Held, what: impl Into<String>, measured: f64) -> Self {
        Self::by(held.budget(), what, measured)
    }

    /// A figure that is held to a budget.
    pub(crate) fn by(budget: Budget, what: impl Into<String>, measured: f64) -> Self {
        Self { what: what.into(), value: budget.unit.show(measured), judged: Some((budget, measured)) }
    }

    /// One that says as much about the machine as about the agent, or belongs to another one: it is only shown.
    pub(crate) fn seen(what: impl Into<String>, value: impl Into<String>) -> Self {
        Self { what: what.into(), value: value.into(), judged: None }
    }

    /// What else was seen along with it.
    pub(crate) fn along(mut self, more: &str) -> Self {
        let _ = write!(self.value, " ({more})");
        self
    }

    pub(crate) fn holds(&self) -> Option<bool> {
        self.judged.as_ref().map(|(budget, measured)| budget.holds(*measured))
    }
}

/// What is over its budget.
pub(crate) fn broken(figures: &[Figure]) -> Vec<String> {
    let over = figures.iter().filter(|figure| figure.holds() == Some(false));
    let told = |figure: &Figure| {
        let most = figure.judged.as_ref().map_or_else(String::new, |(budget, _)| budget.show());
        format!("{}: {}, and the budget is {most}", figure.what, figure.value)
    };
    over.map(told).collect()
}

/// When, of what and on what.
pub(crate) fn measured() -> String {
    let day = timestamp(0);
    let commit = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit =
        commit.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Measured on {}, at {commit}, x86_64, {cores} cores.\n\n", &day[..10])
}

/// Every figure.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = "| what | measured | budget | holds |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let most = figure.judged.as_ref().map_or_else(|| "–".to_owned(), |(budget, _)| budget.show());
        let holds = match figure.holds() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not judged",
        };
        let _ = writeln!(text, "| {} | {} | {most} | {holds} |", figure.what, figure.value);
    }
    text
}

/// A line for each budget, with the worst of what is held to it.
pub(crate) fn summary(figures: &[Figure]) -> String {
    let mut worst: Vec<(&Budget, f64)> = Vec::new();
    for (budget, measured) in figures.iter().filter_map(|figure| figure.judged.as_ref()) {
        match worst.iter_mut().find(|(known, _)| known.about == budget.about) {
            Some((_, most)) => *most = most.max(*measured),
            None => worst.push((budget, *measured)),
        }
    }
    let mut text = "| what | measured | budget |\n|---|---|---|\n".to_owned();
    for (budget, measured) in worst.into_iter().filter(|(budget, _)| budget.is_told) {
        let mut shown = budget.unit.show(measured);
        if !budget.holds(measured) {
            shown = format!("**{shown}**");
        }
        let _ = writeln!(text, "| {} | {shown} | {} |", budget.about, budget.show());
    }
    text
}

/// Where a table stands in a file: between these.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

impl Marks {
    /// All figures, in docs/measurements.md.
    pub(crate) const ALL: Self = Self { begin: "<!-- begin: written by tests/run --bench -->\n", end: "<!-- end -->" };

    /// What is drawn beneath, there.
    pub(crate) const DRAWN: Self =
        Self { begin: "<!-- begin: drawn by tests/run --bench -->\n", end: "<!-- end of it -->" };

    /// The summary, in README.md.
    pub(crate) const SUMMARY: Self =
        Self { begin: "<!-- measured: written by tests/run --bench -->\n", end: "<!-- end of what was measured -->" };

    /// What is before them, between them and behind them.
    pub(crate) fn apart(self, text: &str) -> Option<[&str; 3]> {
        let (head, rest) = text.split_once(self.begin)?;
        let (between, tail) = rest.split_once(self.end)?;
        Some([head, between, tail])
    }

    /// Puts a text between them.
    pub(crate) fn write(self, path: &Path, written: &str) {
        let text = fs::read_to_string(path).unwrap();
        let [head, _, tail] = self.apart(&text).expect("it has its marks");
        fs::write(path, format!("{head}{}{written}{}{tail}", self.begin, self.end)).unwrap();
    }
}
