//! When a credential is rotated before anybody asks for it. Pure, but for the loop at the end.
//!
//! ```text
//! issued        70 %      90 %  expires
//!   ├─────────────┼────x────┼─────┤        x: anywhere between, the same for one credential at every start
//!   ├── 1 h ──┤                            then the one before is no longer kept, if this one works
//! ```
//! `rotateAfter` of the server takes the place of x. Without both there is nothing to be ahead of. A moment that lies
//! before the issue is none: a clock that is wrong by years must not make a loop.

use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use tracing::{debug, info, warn};

use super::backoff::{Backoff, Probe, draw};
use super::credential::{Bearer, Credential};
use super::health::{Access, Health};
use super::keeper::Keeper;
use super::{Account as _, Fault};
use crate::clock;
use crate::limits;
use crate::net::renewal::Life;
use crate::protocol::Timestamp;
use crate::shutdown::{Stop, Wake};
use crate::task;

/// What is to be done with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// The one before goes.
    ForgetPrevious,
    /// A new one comes, and another client certificate with it where that is due.
    Rotate,
    /// A client certificate that has come is tried, and used when it works.
    TryCertificate,
}

/// What is to be done first, and when, in seconds since 1970; `certificate_due` is when another client certificate is to be
/// asked for.
#[must_use]
pub fn next(credential: &Credential, certificate_due: Option<u64>) -> Option<(u64, Chore)> {
    if credential.certificates.next.is_some() {
        return Some((0, Chore::TryCertificate));
    }
    let renew = certificate_due.map(|at| (at, Chore::Rotate));
    let rotate = rotate_at(&credential.current).map(|at| (at, Chore::Rotate));
    let forget = credential.previous.as_ref().map(|_| {
        let issued_at = credential.current.issued_at.map_or(0, seconds);
        (issued_at.saturating_add(limits::ROTATION_GRACE.as_secs()), Chore::ForgetPrevious)
    });
    rotate.into_iter().chain(renew).chain(forget).min_by_key(|(at, _)| *at)
}

/// When a bearer is to be rotated; none where it does not end and the server says nothing.
#[must_use]
pub fn rotate_at(bearer: &Bearer) -> Option<u64> {
    let issued_at = bearer.issued_at.map(seconds);
    let planned = match (bearer.rotate_after, bearer.expires_at) {
        (Some(at), _) => seconds(at),
        (None, Some(end)) => {
            // One of before that moment was written down has a life that nobody knows: it is rotated now.
            issued_at.map_or(0, |issued_at| {
                let life = seconds(end).saturating_sub(issued_at);
                issued_at.saturating_add(share_of(life, bearer.token.expose().as_bytes()))
            })
        }
        (None, None) => return None,
    };
    match issued_at {
        Some(at) if planned < at.saturating_add(limits::ROTATION_FLOOR.as_secs()) => {
            Some(at.saturating_add(limits::ROTATION_UNPLANNED.as_secs()))
        }
        _ => Some(planned),
    }
}

/// When another client certificate is to be asked for in the place of this one.
#[must_use]
pub fn renew_at(chain: &str, (begin, end): Life) -> u64 {
    begin.saturating_add(share_of(end.saturating_sub(begin), chain.as_bytes()))
}

/// Whether the end of a life is near: the moment for something new has passed.
#[must_use]
pub fn is_near((begin, end): Life, now: u64) -> bool {
    let left = u128::from(end.saturating_sub(now)).saturating_mul(100);
    let rest = 100_u64.saturating_sub(limits::ROTATE_TO_PERCENT);
    left < u128::from(end.saturating_sub(begin)).saturating_mul(u128::from(rest))
}

/// A point between 70 % and 90 % of a life, drawn from what it is the life of: the same at every start, another for each.
fn share_of(life: u64, of: &[u8]) -> u64 {
    // In 100 × 2^32 parts; 128 bits hold a life of 64 bits times that.
    const WHOLE: u128 = 100 << 32;
    let hash = digest::digest(&digest::SHA256, of);
    let drawn = hash.as_ref().first_chunk().map_or(0, |bytes| u64::from(u32::from_be_bytes(*bytes)));
    let width = limits::ROTATE_TO_PERCENT.saturating_sub(limits::ROTATE_FROM_PERCENT);
    let drawn = u128::from(width).saturating_mul(u128::from(drawn));
    let parts = (u128::from(limits::ROTATE_FROM_PERCENT) << 32).saturating_add(drawn);
    u64::try_from(u128::from(life).saturating_mul(parts) / WHOLE).unwrap_or(life)
}

fn seconds(timestamp: Timestamp) -> u64 {
    u64::try_from(timestamp.unix_seconds()).unwrap_or(0)
}

/// Rotates when it is time or when `wake` says so, until it is time to stop. What fails is tried again after a pause. `poll`
/// is set when that may have opened the way in again.
pub async fn keep(keeper: Arc<Keeper>, health: Arc<Health>, wake: Wake, poll: Wake, stop: Stop) {
    let mut turning = std::pin::pin!(turn(&keeper, &health, &wake, &poll, &stop));
    tokio::select! {
        () = &mut turning => return,
        () = confirm(&keeper, &health) => {}
    }
    turning.await;
}

/// The credential of a registration over another one is accepted: what it replaced is not needed any more.
async fn confirm(keeper: &Arc<Keeper>, health: &Health) {
    let mut changes = health.subscribe();
    while changes.borrow_and_update().reachable != Some(true) || health.now().access != Access::Accepted {
        if changes.changed().await.is_err() {
            return;
        }
    }
    let keeper = Arc::clone(keeper);
    // Nothing depends on it.
    let _ = task::on_thread(move || keeper.forget_copy()).await;
}

async fn turn(keeper: &Arc<Keeper>, health: &Health, wake: &Wake, poll: &Wake, stop: &Stop) {
    let mut backoff = Backoff::between(limits::ROTATION_BACKOFF_FIRST, limits::ROTATION_BACKOFF_CAP);
    let mut probe = Probe::default();
    let mut is_wanted = false;
    let mut pause = Duration::ZERO;
    while !stop.is_set() {
        health.set_credential_end(keeper.ends());
        health.set_certificate_life(keeper.certificate_life());
        let now = clock::unix_seconds();
        let due = if is_wanted { Some((now, Chore::Rotate)) } else { keeper.next() };
        let left = due.map_or(limits::ROTATION_LOOK, |(at, _)| Duration::from_secs(at.saturating_sub(now)));
        tokio::select! {
            () = tokio::time::sleep(left.min(limits::ROTATION_LOOK).max(pause)) => {}
            () = wake.wait() => is_wanted = true,
            () = keeper.changed() => {
                pause = Duration::ZERO;
                continue;
            }
            () = stop.wait() => return,
        }
        pause = Duration::ZERO;
        let now = clock::unix_seconds();
        let chore =
            if is_wanted { Some(Chore::Rotate) } else { keeper.next().filter(|(at, _)| *at <= now).map(|due| due.1) };
        let Some(chore) = chore else { continue };
        // Whoever is not let in is probed for rarely, by the loop that polls; that one also finds out that the line is back.
        // Without the certificate that it wants it will not be let in before this has been done; rarely, too, if it is refused.
        let is_locked_out = keeper.lacks_certificate();
        let is_refused = health.now().access != Access::Accepted;
        if health.is_long_outage() || !is_locked_out && !is_wanted && is_refused {
            pause = limits::ROTATION_BACKOFF_FIRST;
            continue;
        }
        match run(keeper, chore, is_wanted).await {
            Ok(()) => {
                is_wanted = false;
                backoff.reset();
                probe.reset();
                let now = health.now();
                if is_locked_out || now.access != Access::Accepted || now.reachable == Some(false) {
                    poll.set();
                }
            }
            Err(fault) => {
                // Asked for by a person: what is refused is told, and not repeated.
                is_wanted &= fault.is_passing();
                let is_refusal = matches!(fault, Fault::Unauthorized(_) | Fault::Forbidden(_));
                pause = if is_refusal && is_locked_out { probe.next(draw()) } else { backoff.next(draw()) };
                let (cause, detail) = fault.causes();
                let next_s = pause.as_secs();
                match chore {
                    Chore::TryCertificate => {
                        warn!(error = %fault, cause, detail, next_s, "the new client certificate could not be tried yet");
                    }
                    Chore::ForgetPrevious => {
                        debug!(error = %fault, cause, detail, next_s, "the credential before is kept on");
                    }
                    Chore::Rotate => warn!(
                        error = %fault,
                        cause,
                        detail,
                        next_s,
                        "the credential was not rotated; the one in use stays, and it is tried again"
                    ),
                }
            }
        }
    }
}

async fn run(keeper: &Arc<Keeper>, chore: Chore, is_wanted: bool) -> Result<(), Fault> {
    let (keeper, generation) = (Arc::clone(keeper), keeper.generation());
    let done = task::on_thread(move || match chore {
        Chore::ForgetPrevious => keeper.forget_previous(),
        Chore::TryCertificate => keeper.try_certificate(),
        Chore::Rotate => {
            info!("the credential is rotated");
            match keeper.rotate_from(generation, is_wanted) {
                Err(Fault::Unauthorized(_)) => keeper.recover(),
                rotated => rotated,
            }
        }
    });
    done.await.unwrap_or(Err(Fault::Unreadable("the rotation was interrupted")))
}

#[cfg(test)]
mod tests {
    use super::{Chore, is_near, next, renew_at, rotate_at};
    use crate::limits;
    use crate::link::{Bearer, Certificates, ClientCertificate, Credential};
    use crate::protocol::{ClusterId, Timestamp};
    use crate::trust::client_key::ClientKey;
    use ring::rand::SystemRandom;
    use std::sync::Arc;

    const ISSUED: u64 = 1_793_491_200;
    const MONTH: u64 = 30 * 24 * 3600;

    fn bearer(number: u32, life: Option<u64>, rotate_after: Option<u64>) -> Bearer {
        let at = Timestamp::from_unix_seconds;
        Bearer {
            issued_at: Some(at(ISSUED)),
            rotate_after: rotate_after.map(at),
            ..Bearer::new(&format!("{number:022}"), life.map(|life| at(ISSUED + life))).unwrap()
        }
    }

    #[test]
    fn it_is_between_seventy_and_ninety_percent_and_the_same_at_every_start() {
        let shares: Vec<u64> = (0..1000).map(|n| rotate_at(&bearer(n, Some(MONTH), None)).unwrap() - ISSUED).collect();
        assert!(shares.iter().all(|share| (MONTH * 7 / 10..=MONTH * 9 / 10).contains(share)));
        let tenth =
            |from: u64| shares.iter().filter(|share| (from..from + 5).contains(&(*share * 100 / MONTH))).count();
        for from in [70, 75, 80, 85] {
            assert!(tenth(from) > 150, "spread over the whole of it: {} from {from}", tenth(from));
        }
        assert_eq!(rotate_at(&bearer(7, Some(MONTH), None)), rotate_at(&bearer(7, Some(MONTH), None)));
    }

    #[test]
    fn the_servers_wish_goes_first_and_no_end_needs_no_rotation() {
        assert_eq!(rotate_at(&bearer(1, Some(MONTH), Some(ISSUED + 60))), Some(ISSUED + 60));
        assert_eq!(rotate_at(&bearer(1, None, Some(ISSUED + 60))), Some(ISSUED + 60));
        assert_eq!(rotate_at(&bearer(1, None, None)), None);
    }

    #[test]
    fn a_server_that_says_now_and_a_clock_that_is_years_ahead_make_no_loop() {
        let day = Some(ISSUED + limits::ROTATION_UNPLANNED.as_secs());
        let ended = Bearer { expires_at: Some(Timestamp::from_unix_seconds(1)), ..bearer(1, None, None) };
        assert_eq!(rotate_at(&ended), day);
        let soon = ISSUED + limits::ROTATION_FLOOR.as_secs();
        assert_eq!(rotate_at(&bearer(1, None, Some(soon))), Some(soon));
        assert_eq!(rotate_at(&bearer(1, None, Some(soon - 1))), day);
        for (life, rotate_after) in [(None, Some(0)), (Some(0), None), (Some(1), Some(ISSUED)), (Some(3), None)] {
            assert_eq!(rotate_at(&bearer(1, life, rotate_after)), day, "{life:?} {rotate_after:?}");
        }
        let far = Bearer { expires_at: Some(Timestamp::from_unix_seconds(u64::MAX)), ..bearer(1, None, None) };
        assert!(rotate_at(&far).unwrap() > ISSUED + MONTH);
        let unknown = Bearer { issued_at: None, ..bearer(1, Some(MONTH), None) };
        assert_eq!(rotate_at(&unknown), Some(0));
    }

    fn credential() -> Credential {
        Credential {
            cluster_id: ClusterId::parse("c1").unwrap(),
            endpoint: String::new(),
            generation: 2,
            current: bearer(1, Some(MONTH), None),
            previous: Some(bearer(2, None, None)),
            observed_token: String::new(),
            keys: None,
            machine: None,
            certificates: Certificates::default(),
            registered_at: None,
        }
    }

    #[test]
    fn a_certificate_that_is_due_or_waits_comes_first() {
        let mut credential = credential();
        assert_eq!(next(&credential, Some(ISSUED)), Some((ISSUED, Chore::Rotate)));
        assert_eq!(next(&credential, Some(u64::MAX)), Some((ISSUED + 3600, Chore::ForgetPrevious)));
        (credential.current.expires_at, credential.previous) = (None, None);
        assert_eq!(next(&credential, Some(0)), Some((0, Chore::Rotate)));
        let key = ClientKey::generate(&SystemRandom::new()).unwrap();
        credential.certificates.next = Some(Arc::new(ClientCertificate { key, chain: String::new() }));
        assert_eq!(next(&credential, Some(0)), Some((0, Chore::TryCertificate)));
    }

    #[test]
    fn a_certificate_is_renewed_before_its_end_is_near() {
        for life in [(ISSUED, ISSUED + MONTH), (0, 1_000), (7, 7), (0, u64::MAX), (9, 3)] {
            let at = renew_at("one", life);
            assert_eq!(renew_at("one", life), at, "the same at every start");
            assert!(at >= life.0 && (at <= life.1 || life.1 < life.0), "{life:?} {at}");
            assert!(!is_near(life, at), "{life:?} {at}");
        }
        assert_ne!(renew_at("one", (0, u64::MAX)), renew_at("another", (0, u64::MAX)));
        let life = (1_000, 2_000);
        let near = [0, 1_900, 1_901, 2_000, 9_000].map(|now| is_near(life, now));
        assert_eq!(near, [false, false, true, true, true]);
    }

    #[test]
    fn the_one_before_goes_after_an_hour() {
        let mut credential = credential();
        assert_eq!(next(&credential, None), Some((ISSUED + 3600, Chore::ForgetPrevious)));
        credential.previous = None;
        assert!(matches!(next(&credential, None), Some((_, Chore::Rotate))));
        credential.current.expires_at = None;
        assert_eq!(next(&credential, None), None);
    }
}
