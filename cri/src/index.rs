//! What exists, by id: answered from memory, held for no longer than a look.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Error;

/// Things by their id of 64 digits; any unique prefix finds one.
pub struct Index<T> {
    /// What the things are called in messages.
    noun: &'static str,
    things: RwLock<BTreeMap<String, Arc<T>>>,
}

impl<T> Index<T> {
    /// An empty index of things called `noun`.
    #[must_use]
    pub fn new(noun: &'static str) -> Self {
        Self { noun, things: RwLock::default() }
    }

    /// Adds a thing.
    pub fn insert(&self, id: &str, thing: Arc<T>) {
        self.things.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), thing);
    }

    /// Takes a thing out.
    pub fn remove(&self, id: &str) {
        self.things.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Finds a thing by its id or a prefix that no other has.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Invalid` when there are several.
    pub fn find(&self, prefix: &str) -> Result<Arc<T>, Error> {
        let not_found = || Error::NotFound { object: format!("{} {prefix:?}", self.noun) };
        if prefix.is_empty() {
            return Err(not_found());
        }
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        let mut matches = things
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(|(id, _)| id.starts_with(prefix));
        let first = matches.next().ok_or_else(not_found)?;
        if matches.next().is_some() {
            return Err(Error::Invalid {
                operation: format!("find {} {prefix:?}", self.noun),
                reason: "more than one begins like this".into(),
            });
        }
        Ok(Arc::clone(first.1))
    }

    /// Shows everything to `look`, in the order of ids, which must not take long: nothing comes or goes meanwhile.
    pub fn look(&self, mut look: impl FnMut(&T)) {
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        things.values().for_each(|thing| look(thing));
    }

    /// Everything, in the order of ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        things.values().cloned().collect()
    }
}

impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("noun", &self.noun).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_prefix_finds_and_a_shared_one_does_not() {
        let index = Index::new("container");
        for id in ["abc1", "abc2", "bcd3"] {
            index.insert(id, Arc::new(id));
        }
        assert_eq!(*index.find("abc1").unwrap(), "abc1");
        assert_eq!(*index.find("b").unwrap(), "bcd3");
        assert!(matches!(index.find("abc"), Err(Error::Invalid { .. })));
        for id in ["", "x", "abc11"] {
            assert!(matches!(index.find(id), Err(Error::NotFound { .. })), "{id}");
        }
        index.remove("abc1");
        assert_eq!(*index.find("abc").unwrap(), "abc2");
    }
}
