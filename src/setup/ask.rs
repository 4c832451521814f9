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
    // Where the terminal's own program is not there the token is seen, and used up in a moment. Who wants to end us here
    // (Ctrl-C) is understood behind the line: ended at once, we would leave a terminal that shows nothing.
    let show = |how: [&str; 2]| Command::new("stty").args(how).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
    // Before it is asked: somebody may paste at once.
    if is_secret {
        let _ = show(["-echo", "-isig"]);
    }
    let _ = write!(io::stdout(), "{question}");
    let _ = io::stdout().flush();
    let mut line = Zeroizing::new(String::with_capacity(256));
    let read = io::stdin().lock().take(limits::TYPED_BYTES).read_line(&mut line);
    if is_secret {
        let _ = show(["echo", "isig"]);
        let _ = writeln!(io::stdout());
    }
    let text = Zeroizing::new(line.trim().to_owned());
    Some(text).filter(|text| read.is_ok() && !text.is_empty() && !text.contains('\u{3}'))
}
