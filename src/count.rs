//! A number of 64 bits that threads share. An ARM of 32 bits may not have an instruction for it, and other processors have
//! none at all: there it is a number behind a lock, and nothing else is different. No other module names an atomic of 64
//! bits; a test holds that.

/// Counts events, jobs, bytes. Nothing else hangs on the order of its changes.
#[cfg(target_has_atomic = "64")]
pub type Count = atomic::Count;

/// Counts events, jobs, bytes. Nothing else hangs on the order of its changes.
#[cfg(not(target_has_atomic = "64"))]
pub type Count = locked::Count;

#[cfg(target_has_atomic = "64")]
mod atomic {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// By the processor.
    #[derive(Debug, Default)]
    pub struct Count(AtomicU64);

    impl Count {
        /// One that begins here.
        #[must_use]
        pub const fn new(first: u64) -> Self {
            Self(AtomicU64::new(first))
        }

        /// Adds, beyond the end from the beginning, and gives what it was before.
        pub fn add(&self, more: u64) -> u64 {
            self.0.fetch_add(more, Ordering::Relaxed)
        }

        /// What it is now.
        #[must_use]
        pub fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        /// From now on it is this.
        pub fn set(&self, number: u64) {
            self.0.store(number, Ordering::Relaxed);
        }
    }
}

#[cfg(any(test, not(target_has_atomic = "64")))]
#[cfg_attr(target_has_atomic = "64", allow(unreachable_pub, reason = "here it is tested, and not used"))]
mod locked {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// By a lock.
    #[derive(Debug, Default)]
    pub struct Count(Mutex<u64>);

    impl Count {
        /// One that begins here.
        #[must_use]
        pub const fn new(first: u64) -> Self {
            Self(Mutex::new(first))
        }

        /// Adds, beyond the end from the beginning, and gives what it was before.
        pub fn add(&self, more: u64) -> u64 {
            let mut number = self.number();
            let before = *number;
            *number = before.wrapping_add(more);
            before
        }

        /// What it is now.
        #[must_use]
        pub fn now(&self) -> u64 {
            *self.number()
        }

        /// From now on it is this.
        pub fn set(&self, number: u64) {
            *self.number() = number;
        }

        fn number(&self) -> MutexGuard<'_, u64> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(test)]
mod tests {
    /// The same is asked of both.
    macro_rules! counts {
        ($name:ident, $count:ty) => {
            #[test]
            fn $name() {
                let count = <$count>::new(u64::MAX - 1);
                assert_eq!((count.add(1), count.now()), (u64::MAX - 1, u64::MAX));
                assert_eq!((count.add(3), count.now()), (u64::MAX, 2));
                count.set(1 << 40);
                std::thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(|| (0..10_000).for_each(|_| _ = count.add(1 << 32)));
                    }
                });
                assert_eq!(count.now(), (1 << 40) + (40_000 << 32));
                assert_eq!(<$count>::default().now(), 0);
            }
        };
    }

    counts!(a_count_of_the_processor_loses_nothing, super::Count);
    counts!(a_count_behind_a_lock_loses_nothing, super::locked::Count);
}
