//! `pullet version`: what was settled when the program was built.

/// As a release has it: `x86_64-unknown-linux-musl`. What builds the crate says it.
const TARGET: &str = env!("PULLET_TARGET");

/// Whoever builds a release says of which commit it is: the source alone does not know.
const COMMIT: Option<&str> = option_env!("PULLET_COMMIT");

/// For people, or as one JSON object.
pub(super) fn text(is_json: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if !is_json {
        return ["pullet ", version].concat();
    }
    // Every value is made of characters that JSON takes as they are: the build settles them, and the test looks.
    let mut text = ["{\"version\":\"", version, "\",\"target\":\"", TARGET].concat();
    if let Some(commit) = COMMIT {
        text.push_str("\",\"commit\":\"");
        text.push_str(commit);
    }
    text.push_str("\",\"protocol\":1,\"features\":[");
    text.push_str(match (cfg!(feature = "sign"), cfg!(feature = "webhook")) {
        (false, false) => "]}",
        (true, false) => "\"sign\"]}",
        (false, true) => "\"webhook\"]}",
        (true, true) => "\"sign\",\"webhook\"]}",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::text;
    use serde_json::Value;

    #[test]
    fn both_say_the_same_version() {
        let json: Value = serde_json::from_str(&text(true)).unwrap();
        assert_eq!(text(false), format!("pullet {}", json["version"].as_str().unwrap()));
        assert!(json["target"].as_str().unwrap().starts_with(std::env::consts::ARCH), "{json}");
        assert_eq!(json["protocol"], 1);
        let features = usize::from(cfg!(feature = "sign")) + usize::from(cfg!(feature = "webhook"));
        assert_eq!(json["features"].as_array().unwrap().len(), features);
    }
}
