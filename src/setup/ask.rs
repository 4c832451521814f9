//! What a person is asked on a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::limits;

/// One line; nothing where nobody sits there or nothing was typed. What is secret is not shown.
pub(super) fn ask(question: &str, is_secret: bool) -> Option<Zeroizing<String>> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return None;
    }
    let _ = write!(io::stdout(), "{question}");
    let _ = io::stdout().flush();
    // The terminal is the program's that knows how; where it does not, the token is seen, and used up in a moment.
    let show = |how: &str| Command::new("stty").arg(how).stderr(Stdio::null()).status();
    if is_secret {
        let _ = show("-echo");
    }
    let mut line = Zeroizing::new(String::with_capacity(256));
    let read = io::stdin().lock().take(limits::TYPED_BYTES).read_line(&mut line);
    if is_secret {
        let _ = show("echo");
        let _ = writeln!(io::stdout());
    }
    let text = Zeroizing::new(line.trim().to_owned());
    Some(text).filter(|text| read.is_ok() && !text.is_empty())
}
