//! What a person, or a program, is told.

use std::time::Duration;

use super::{CHECKS, Finding, Verdict};

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// The worst of all.
#[must_use]
pub fn verdict(findings: &[Finding]) -> Verdict {
    let told = findings.iter().map(|finding| finding.verdict).filter(|verdict| *verdict != Verdict::Skipped);
    told.max().unwrap_or(Verdict::Ok)
}

/// One line a check, with what to do beneath those that are not well.
#[must_use]
pub fn print(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let name = finding.check.name();
        let word = if finding.verdict == Verdict::Failed { "FAILED" } else { finding.verdict.word() };
        push_padded(&mut text, word, 9);
        push_padded(&mut text, name, 13);
        text.push_str(&printable(&finding.seen));
        if !finding.mend.is_empty() {
            text.push('\n');
            push_padded(&mut text, "", 22);
            text.push_str("-> ");
            text.push_str(finding.mend);
        }
        text.push('\n');
    }
    text
}

/// The one thing that is to be mended first, and how much else there is; none where all is well.
#[must_use]
pub fn first(findings: &[Finding]) -> Option<String> {
    let worst = verdict(findings);
    if worst < Verdict::Warning {
        return None;
    }
    let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.verdict == worst).collect();
    let finding = bad.first()?;
    let mut text = [finding.check.name(), ": ", &printable(&finding.seen), " -> ", finding.mend].concat();
    if bad.len() > 1 {
        let more = (bad.len() - 1).to_string();
        text.push_str(&[" (and ", &more, " more)"].concat());
    }
    Some(text)
}

/// One JSON object; it says how long all of it took.
#[must_use]
pub fn as_json(findings: &[Finding], took: Duration) -> String {
    // A text cannot fail to be written to memory.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let mut text = ["{\"verdict\":\"", verdict(findings).word(), "\",\"milliseconds\":"].concat();
    text.push_str(&took.as_millis().to_string());
    text.push_str(",\"checks\":[");
    for (at, finding) in findings.iter().enumerate() {
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        for part in [
            "{\"check\":\"",
            finding.check.name(),
            "\",\"verdict\":\"",
            finding.verdict.word(),
            "\",\"seen\":",
            &quoted(&finding.seen),
            ",\"mend\":",
            &quoted(finding.mend),
            "}",
        ] {
            text.push_str(part);
        }
    }
    text.push_str("\n]}");
    text
}

/// How many checks there are.
#[must_use]
pub fn count() -> usize {
    CHECKS.len()
}

fn push_padded(text: &mut String, part: &str, width: usize) {
    text.push_str(part);
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(part.len())));
}

/// What somebody else wrote does not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{as_json, first, print, verdict};
    use crate::doctor::{CHECKS, Check, Finding, Verdict, complete};
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn finding(check: Check, verdict: Verdict, seen: &str, mend: &'static str) -> Finding {
        Finding { check, verdict, seen: seen.to_owned(), mend }
    }

    #[test]
    fn the_worst_that_comes_first_is_what_a_person_is_told() {
        let all = [
            finding(Check::Clock, Verdict::Warning, "late", "set it"),
            finding(Check::Dns, Verdict::Failed, "no \u{1b}[31mname", "spell it"),
            finding(Check::Tcp, Verdict::Skipped, "because of dns", ""),
            finding(Check::State, Verdict::Failed, "full", "make room"),
        ];
        assert_eq!(verdict(&all), Verdict::Failed);
        assert_eq!(first(&all).unwrap(), "dns: no \u{fffd}[31mname -> spell it (and 1 more)");
        assert_eq!(first(&all[..1]).unwrap(), "clock: late -> set it");
        assert_eq!((verdict(&all[2..3]), first(&all[2..3])), (Verdict::Ok, None));
        let text = print(&all);
        assert!(text.contains("warning  clock        late\n                      -> set it\n"), "{text}");
        assert!(text.contains("FAILED   dns          no \u{fffd}[31mname\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&as_json(&all, Duration::from_micros(4_012_999))).unwrap();
        assert_eq!((&json["verdict"], &json["milliseconds"]), (&"failed".into(), &4_012.into()));
        assert_eq!(
            json["checks"][1],
            serde_json::json!({"check": "dns", "verdict": "failed", "seen": "no \u{1b}[31mname", "mend": "spell it"})
        );
    }

    #[test]
    fn every_check_has_a_name_of_its_own_and_its_place() {
        let names: BTreeSet<&str> = CHECKS.iter().map(|(_, name, _)| *name).collect();
        assert_eq!(names.len(), CHECKS.len());
        assert!(CHECKS.is_sorted_by_key(|(check, ..)| *check));
        assert!(CHECKS.iter().all(|(check, name, _)| check.name() == *name && name.len() < 13));
    }

    /// Of each area the first check that was not told is what it hangs at.
    #[test]
    fn what_was_not_told_in_time_is_told() {
        let found =
            complete(vec![finding(Check::State, Verdict::Ok, "", ""), finding(Check::Credential, Verdict::Ok, "", "")]);
        let names: Vec<Check> = found.iter().map(|finding| finding.check).collect();
        assert_eq!(names, CHECKS.map(|(check, ..)| check));
        let of = |check: Check| found.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(of(Check::State).verdict, Verdict::Ok);
        assert_eq!((of(Check::Medium).verdict, of(Check::Journal).verdict), (Verdict::Failed, Verdict::Skipped));
        assert_eq!(of(Check::Journal).seen, "because of medium");
        assert_eq!(of(Check::Release).seen, "because of api-server");
        assert_eq!(of(Check::Rights).verdict, Verdict::Failed);
    }
}
