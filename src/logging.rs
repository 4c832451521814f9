//! One line an event: for people on a terminal, as JSON otherwise.
//!
//! Only what this crate says is printed, at any level: libraries below may log what they send. Control
//! characters never get through: what a server said cannot move a cursor or forge a line.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::clock;
use crate::protocol::Timestamp;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Format {
    /// Text on a terminal, JSON otherwise.
    #[must_use]
    pub fn for_stderr() -> Self {
        if io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Prints what this crate says, from now on, to stderr. A second call changes nothing.
pub fn start(level: Level, format: Format) {
    let _ = tracing::subscriber::set_global_default(Lines { level, format, out: io::stderr });
}

/// Prints events, and knows nothing of spans: nobody here opens one.
struct Lines<O> {
    level: Level,
    format: Format,
    out: O,
}

impl<O: Fn() -> W + 'static, W: Write> Subscriber for Lines<O> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && is_ours(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn event(&self, event: &Event<'_>) {
        // One write a line: lines of two threads do not mix. Where stderr is shut nobody can be told.
        let _ = (self.out)().write_all(self.line(event).as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl<O> Lines<O> {
    fn line(&self, event: &Event<'_>) -> String {
        let mut fields = Fields { format: self.format, message: String::new(), rest: String::new() };
        event.record(&mut fields);
        let time = Timestamp::from_unix_seconds(clock::unix_seconds());
        let level = event.metadata().level().as_str();
        match self.format {
            Format::Text => format!("{time} {level:5} {}{}\n", fields.message, fields.rest),
            Format::Json => {
                let level = level.to_ascii_lowercase();
                let message = Quoted(&fields.message);
                format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":{message}{}}}\n", fields.rest)
            }
        }
    }
}

fn is_ours(target: &str) -> bool {
    target == env!("CARGO_PKG_NAME") || target.starts_with(concat!(env!("CARGO_PKG_NAME"), "::"))
}

/// What an event carries, ready to be printed.
struct Fields {
    format: Format,
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str, is_text: bool) {
        // Writing to a string does not fail.
        let _ = match (self.format, field.name()) {
            (Format::Text, "message") => write!(self.message, "{}", Printable(value)),
            (Format::Json, "message") => {
                self.message.push_str(value);
                Ok(())
            }
            // An empty detail is none.
            (_, _) if value.is_empty() => Ok(()),
            (Format::Text, name) if is_text && value.contains(' ') => {
                write!(self.rest, " {name}={}", Quoted(value))
            }
            (Format::Text, name) => write!(self.rest, " {name}={}", Printable(value)),
            (Format::Json, name) if is_text => write!(self.rest, r#","{name}":{}"#, Quoted(value)),
            (Format::Json, name) => write!(self.rest, r#","{name}":{value}"#),
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"), true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string(), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string(), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, if value { "true" } else { "false" }, false);
    }
}

/// A text without control characters.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { f.write_char('\u{fffd}')? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Lines, is_ours};
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: Format, say: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = Lines { level: tracing::Level::DEBUG, format, out: move || writer.clone() };
        tracing::subscriber::with_default(subscriber, say);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_json_whatever_is_said() {
        let text = printed(Format::Json, || {
            tracing::warn!(
                error = "a \"b\" \\ \u{1b}[0m \u{85}\n",
                count = 3_u64,
                ok = true,
                empty = "",
                "it is {}",
                "so\t"
            );
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "warn");
        assert_eq!(line["message"], "it is so\t");
        assert_eq!(line["error"], "a \"b\" \\ \u{1b}[0m \u{85}\n");
        assert_eq!((&line["count"], &line["ok"]), (&3.into(), &true.into()));
        assert!(line.get("empty").is_none());
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_is_one_line_without_control_characters() {
        let text = printed(Format::Text, || tracing::info!(job = "j1", why = "a b", "x\n2026 FORGED\u{1b}[2J"));
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with(" INFO  x\u{fffd}2026 FORGED\u{fffd}[2J job=j1 why=\"a b\"\n"), "{text:?}");
    }

    #[test]
    fn what_is_below_the_level_is_not_printed() {
        let text = printed(Format::Text, || {
            tracing::trace!("too much");
            tracing::info_span!("a span").in_scope(|| tracing::debug!("enough"));
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("DEBUG enough\n"), "{text:?}");
    }

    #[test]
    fn what_libraries_say_is_not_printed() {
        let text = printed(Format::Text, || tracing::error!(target: "kube_client::client", "Bearer secret"));
        assert_eq!(text, "");
        assert!(is_ours("pullet") && is_ours("pullet::link") && !is_ours("pullet_other"));
    }
}
