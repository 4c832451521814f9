//! What a restart has to know of the line, in `traffic.json` of the state directory: the bytes of this day and month,
//! so that a node which restarts gets no new budget, and what was learnt of the hold.
//!
//! Written at a clean stop, and once a day where a month has a budget: flash wears out. It is no secret and nothing
//! depends on it: what cannot be read is said, and counted anew.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::StateDirectory;
use super::budget::Budget;
use super::credential::StoreError;
use super::hold::{Hold, Learnt};
use crate::limits;
use crate::metrics::Traffic;
use crate::task;

const NAME: &str = "traffic.json";
const VERSION: u32 = 1;

#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    version: u32,
    traffic: Traffic,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Learnt>,
}

/// What is known from before; nothing where there is no such file, or none that can be used.
#[must_use]
pub fn load(store: &StateDirectory) -> (Traffic, Option<Learnt>) {
    match read(store) {
        Ok(Some(stored)) => (stored.traffic, stored.hold),
        Ok(None) => (Traffic::default(), None),
        Err(error) => {
            warn!(%error, "the bytes of this month are counted anew, and the hold is learnt anew");
            (Traffic::default(), None)
        }
    }
}

fn read(store: &StateDirectory) -> Result<Option<Stored>, StoreError> {
    let Some(text) = store.read(NAME)? else { return Ok(None) };
    match serde_json::from_str::<Stored>(&text) {
        Ok(stored) if stored.version == VERSION => Ok(Some(stored)),
        _ => Err(store.malformed(NAME)),
    }
}

/// Writes what is known now. Blocks. That it fails costs the count of a day, and is said.
pub fn save(store: &StateDirectory, budget: &Budget, hold: &Mutex<Hold>) {
    let hold = hold.lock().unwrap_or_else(PoisonError::into_inner).learnt();
    let stored = Stored { version: VERSION, traffic: budget.traffic(), hold };
    let text = serde_json::to_vec(&stored).unwrap_or_default();
    if let Err(error) = store.replace(NAME, &text) {
        warn!(%error, "the bytes of this month cannot be written down: a restart counts them anew");
    }
}

/// Writes once a day where a month has a budget. Never ends.
pub async fn keep(store: Arc<StateDirectory>, budget: Budget, hold: Arc<Mutex<Hold>>) {
    if budget.limit().is_none() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(limits::TRAFFIC_SAVED_EVERY).await;
        let (store, budget, hold) = (Arc::clone(&store), budget.clone(), Arc::clone(&hold));
        // A thread that ended early wrote nothing, and a day later it is tried again.
        let _ = task::on_thread(move || save(&store, &budget, &hold)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{load, read, save};
    use crate::limits;
    use crate::link::StateDirectory;
    use crate::link::budget::Budget;
    use crate::link::credential::StoreError;
    use crate::link::hold::{Held, Hold};
    use crate::metrics::{Meter, Traffic};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Mutex;
    use std::time::Duration;

    #[test]
    fn a_restart_goes_on_with_the_bytes_and_the_hold_of_before() {
        let directory = tempfile::tempdir().unwrap();
        let store = StateDirectory::open(directory.path()).unwrap();
        assert_eq!(load(&store).0, Traffic::default());
        let meter = Meter::default();
        meter.add_sent(10);
        let mut hold = Hold::adapting(Duration::from_secs(30));
        hold.after(Held::Full, Duration::from_secs(30));
        save(&store, &Budget::new(Some(10), meter, Traffic::default()), &Mutex::new(hold));
        let (traffic, learnt) = load(&store);
        let budget = Budget::new(Some(10), Meter::default(), traffic);
        assert!(budget.is_used_up());
        let again = Hold::adapting(Duration::from_secs(30)).knowing(learnt.unwrap());
        assert_eq!(again.length(), Duration::from_secs(60));
        let fixed = Hold::fixed(Duration::from_secs(30));
        assert!(fixed.learnt().is_none());
        assert_eq!(fixed.knowing(learnt.unwrap()).length(), Duration::from_secs(30));
    }

    #[test]
    fn what_cannot_be_used_is_told_and_harmless() {
        let directory = tempfile::tempdir().unwrap();
        let store = StateDirectory::open(directory.path()).unwrap();
        let hold = Mutex::new(Hold::adapting(Duration::from_secs(30)));
        save(&store, &Budget::default(), &hold);
        let path = directory.path().join("traffic.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        assert!(whole.len() < 512);
        let newer = whole.replace("\"version\":1", "\"version\":2");
        for text in
            ["", "{", "[]", "{\"version\":1}", &whole[..whole.len() - 1], &newer, "{\"version\":1,\"traffic\":7}"]
        {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(read(&store), Err(StoreError::Malformed(_))), "{text}");
            assert_eq!(load(&store).0, Traffic::default(), "{text}");
        }
        let mut long = whole.clone().into_bytes();
        long.resize(usize::try_from(limits::SECRET_FILE_BYTES).unwrap() + 1, b' ');
        std::fs::write(&path, &long).unwrap();
        assert!(matches!(read(&store), Err(StoreError::Unsafe(..))));
        std::fs::write(&path, "\u{1}").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load(&store).0, Traffic::default());
    }
}
