//! `pullet doctor`: what is wrong with this node, and what a person sets right.

use std::time::Instant;

use super::{Failure, read_config, say, status};
use crate::agent;
use crate::args::Remedy;
use crate::clock;
use crate::config::{Config, Settings};
use crate::doctor::{self, Verdict};
use crate::journal;
use crate::link::StateDirectory;
use crate::link::backoff::draw;
use crate::trust::replay::TrustState;

/// Looks at everything and says what it found. Fails with what is to be mended first.
pub(super) fn examine(settings: Settings, is_json: bool) -> Result<(), Failure> {
    let begin = Instant::now();
    let settings = settings.with_file()?;
    let status_file = settings.status_file.clone();
    let config = read_config(settings)?;
    doctor::become_owner(&config.state_dir);
    let findings = doctor::examine(config, status::read(status_file).map_err(|error| error.to_string()), begin);
    say(if is_json { doctor::as_json(&findings, begin.elapsed()) } else { doctor::print(&findings) }.trim_end());
    match (doctor::verdict(&findings), doctor::first(&findings)) {
        (Verdict::Failed, Some(first)) => Err(Failure::failed(first)),
        (_, Some(first)) => Err(Failure::warned(first)),
        (_, None) => {
            if !is_json {
                say(&["all is well: ", &doctor::count().to_string(), " checks"].concat());
            }
            Ok(())
        }
    }
}

/// Sets one thing right. The lock of the state directory keeps a running agent out of it.
pub(super) fn set_right(config: &Config, remedy: Remedy) -> Result<(), Failure> {
    if !config.state_dir.exists() {
        return Err(Failure::failed(format!("there is no state directory {}", config.state_dir.display())));
    }
    let store = agent::open_store(config).map_err(Failure::failed)?;
    match remedy {
        Remedy::Clock => reset_clock(config),
        Remedy::Ledger => reset_ledger(config, &store),
    }
}

/// Forgets the loss of the ledger.
fn reset_ledger(config: &Config, store: &StateDirectory) -> Result<(), Failure> {
    let opened = journal::open::open(store.handle(), config.journal_size, draw()).map_err(Failure::failed)?;
    let found =
        opened.restored.kept.trust.and_then(|(_, bytes)| TrustState::from_bytes(bytes.as_slice().try_into().ok()?));
    let answer = match found {
        None => Err(Failure::failed("the journal has no ledger yet: start the agent once, which notes the loss")),
        Some(state) if state.lost_at.is_none() => Ok("the ledger is whole; nothing was changed"),
        Some(state) => {
            let state = state.without_loss();
            if opened.outbox.commit_trust(&state.to_bytes()) {
                Ok("signed jobs from before the loss pass again, each number once from now on")
            } else {
                Err(Failure::failed("the journal cannot be written; make room, or mend the disk"))
            }
        }
    };
    opened.outbox.close();
    answer.map(say)
}

/// Forgets the last confirmed time.
fn reset_clock(config: &Config) -> Result<(), Failure> {
    let was_there = clock::reset(&config.state_dir).map_err(Failure::failed)?;
    say(if was_there {
        "the last confirmed time is forgotten; set the clock of this node before the agent starts: date -s, or a time service"
    } else {
        "no confirmed time was kept; nothing was changed"
    });
    Ok(())
}
