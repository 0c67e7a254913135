//! What has been done so far and how it is undone: registered at the moment of doing.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use crate::error::Error;
use crate::record;
use crate::runtime::remove_folder;

type Step = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A stack of steps to take back, newest first.
///
/// Every step must be idempotent, for recovery after a killed daemon takes the same ones. A step that fails is
/// reported and does not keep the others from running. Dropping the stack does nothing: a chain that ends early
/// because the daemon dies is taken back by recovery, and one that fails by [`Undo::settle`].
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
}

impl Undo {
    /// Registers how to take back what is about to be done.
    pub fn push<F>(&mut self, description: &'static str, step: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.steps.push((description, Box::pin(step)));
    }

    /// Registers that a folder is to be removed.
    pub fn push_folder(&mut self, description: &'static str, folder: PathBuf) {
        self.push(description, async move {
            record::blocking(description, move || remove_folder(&folder))
                .await
                .map_err(|error| error.sentence())
        });
    }

    /// Ends the chain: what succeeded stays, what failed is taken back before its error is told.
    pub async fn settle<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.run().await;
        }
        result
    }

    /// Takes everything back, newest first, and logs the steps that fail.
    async fn run(mut self) {
        while let Some((description, step)) = self.steps.pop() {
            if let Err(error) = step.await {
                tracing::warn!(step = description, error, "undo a failed request");
            }
        }
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(description, _)| description)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn steps_run_newest_first_and_a_failing_one_stops_nobody() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for (name, fails) in [("first", false), ("second", true), ("third", false)] {
            let seen = Arc::clone(&seen);
            undo.push(name, async move {
                seen.lock().unwrap().push(name);
                if fails { Err("busy".to_owned()) } else { Ok(()) }
            });
        }
        undo.run().await;
        assert_eq!(*seen.lock().unwrap(), ["third", "second", "first"]);
    }
}
