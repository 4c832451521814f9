//! What runs beside its caller. tokio makes its machinery anew for each kind of future and each kind of work, 1.5 kB
//! of it a time; boxed, all of them are of one kind.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

/// Runs on beside the caller, on the same thread.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let future: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(future);
    tokio::spawn(future)
}

/// Begins work that waits for a disk or a network, on a thread of its own; the future is its end.
///
/// # Errors
/// Of the future: [`Interrupted`].
pub fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, Interrupted>> + Send + 'static {
    let done = Arc::new(Mutex::new(None));
    let place = Arc::clone(&done);
    let work: Box<dyn FnOnce() + Send> = Box::new(move || {
        let found = work();
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    });
    let running = tokio::task::spawn_blocking(work);
    async move {
        // Whatever became of the thread, what counts is whether it left something.
        let _ = running.await;
        done.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(Interrupted)
    }
}

/// The thread ended early: the program stops, or the work has a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the work was interrupted")
    }
}

impl std::error::Error for Interrupted {}

#[cfg(test)]
mod tests {
    use super::{Interrupted, on_thread, spawn};
    use std::sync::mpsc;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn work_is_done_on_another_thread_even_if_nobody_waits_for_it() {
        let (say, hear) = mpsc::channel();
        runtime().block_on(async {
            drop(on_thread(move || say.send(std::thread::current().id()).unwrap()));
            assert_ne!(hear.recv().unwrap(), std::thread::current().id());
            assert_eq!(on_thread(|| 7).await, Ok(7));
        });
    }

    #[test]
    fn work_that_ends_early_is_interrupted() {
        let ended = runtime().block_on(on_thread_that_panics());
        assert_eq!(ended, Err(Interrupted));
    }

    async fn on_thread_that_panics() -> Result<u8, Interrupted> {
        on_thread(|| -> u8 { std::panic::resume_unwind(Box::new(())) }).await
    }

    #[test]
    fn a_task_runs_beside_its_caller() {
        runtime().block_on(async {
            let (say, hear) = tokio::sync::oneshot::channel();
            let task = spawn(async move { say.send(7).unwrap() });
            assert_eq!(hear.await, Ok(7));
            task.await.unwrap();
        });
    }
}
