//! What is sent and written down is bounded, whatever the cluster says.

use crate::limits;
use crate::protocol::{Condition, Event};

/// A condition's message takes at most this much of a record; with its type, reason and times it stays
/// below [`limits::RECORD_BYTES`].
const MESSAGE_BYTES: usize = 256;

/// Cuts messages, and leaves out what goes beyond a record: the changed condition comes first.
pub(super) fn bound_event(event: &mut Event) {
    bound_conditions(&mut event.conditions);
    for endpoint in &mut event.endpoints {
        cut(&mut endpoint.url, MESSAGE_BYTES);
        cut(&mut endpoint.notes, MESSAGE_BYTES);
    }
    while serde_json::to_vec(event).map_or(0, |text| text.len()) > limits::RECORD_BYTES {
        if event.endpoints.pop().is_none() && (event.conditions.len() < 2 || event.conditions.pop().is_none()) {
            break;
        }
    }
}

/// Conditions are written by any author. One that the protocol does not know must not keep a whole batch
/// from being taken: a status that is none is `Unknown`, and what has no type is left out.
pub(super) fn bound_conditions(conditions: &mut Vec<Condition>) {
    conditions.retain(|condition| !condition.kind.is_empty());
    conditions.truncate(CONDITIONS);
    for condition in conditions {
        if !matches!(condition.status.as_str(), "True" | "False" | "Unknown") {
            "Unknown".clone_into(&mut condition.status);
        }
        cut(&mut condition.kind, MESSAGE_BYTES);
        cut(&mut condition.reason, MESSAGE_BYTES);
        cut(&mut condition.message, MESSAGE_BYTES);
    }
}

/// Conditions in one event.
const CONDITIONS: usize = 8;

/// Cuts a text at a character and marks it.
pub fn cut(text: &mut String, bytes: usize) {
    const MARK: &str = "…";
    if text.len() <= bytes {
        return;
    }
    let mut end = bytes.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.truncate(end);
    text.push_str(MARK);
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_cut_is_at_a_character_and_marked() {
        let cut_to = |text: &str, bytes| {
            let mut text = text.to_owned();
            cut(&mut text, bytes);
            text
        };
        assert_eq!(cut_to("abcdef", 6), "abcdef");
        assert_eq!(cut_to("abcdefg", 6), "abc…");
        assert_eq!(cut_to("üüüü", 6), "ü…");
        assert_eq!(cut_to("abc", 1), "…");
    }
}
