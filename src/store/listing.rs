//! Listing: never a shorter list than the truth, and no more of it than was asked for.

use futures::TryStreamExt;
use object_store::list::PaginatedListOptions;

use super::{Listed, Place, Store, directory, failure, listed, path_of};
use crate::error::{Error, ErrorKind, Result};

impl Store {
    /// Calls `each` with every object whose key begins with `directory` (which ends in `/`), in any order, a page of
    /// a thousand at a time; keys after `after` only, when given.
    ///
    /// Errors: never a shorter list than the truth: a listing that breaks off is an error.
    pub async fn list(&self, directory: &str, after: Option<&str>, mut each: impl FnMut(Listed)) -> Result<()> {
        let on = |object| {
            each(object);
            true
        };
        self.list_while(directory, after, on).await
    }

    /// The same until `each` says false: no page is asked for after that. Buckets list in the order of keys,
    /// directories in none.
    pub async fn list_while(
        &self,
        directory: &str,
        after: Option<&str>,
        mut each: impl FnMut(Listed) -> bool,
    ) -> Result<()> {
        let prefix = path_of(directory)?;
        let mut objects = match after {
            // Azure has a parameter to start at, but older services, emulators and gateways answer it with everything or
            // with nothing: there the keys before are read and left out.
            Some(after) if !matches!(self.place, Place::Azure { .. }) => {
                self.objects.list_with_offset(Some(&prefix), &path_of(after)?)
            }
            _ => self.objects.list(Some(&prefix)),
        };
        let describe = |error| self.listing_failed(directory, error);
        loop {
            let object = match objects.try_next().await {
                Ok(Some(object)) => object,
                Ok(None) => break,
                // None of its objects can be called so.
                Err(error) if failure::no_such_name(&error) => break,
                Err(error) => return Err(describe(error)),
            };
            let is_before = after.is_some_and(|after| object.location.as_ref() <= after);
            if !is_before && !each(listed(object)) {
                break;
            }
        }
        Ok(())
    }

    /// The objects in `directory` (which ends in `/`) whose names begin with `name`. A request for each thousand.
    ///
    /// Errors: `Unreachable` where nothing is found in a `file://` store that is altogether empty: that is how the
    /// mount point of an archive looks that is not mounted.
    pub async fn list_names(&self, directory: &str, name: &str) -> Result<Vec<Listed>> {
        let begins = format!("{directory}{name}");
        let describe = |error| self.listing_failed(directory, error);
        let prefix = path_of(directory)?;
        let Some(pages) = &self.pages else {
            // A directory is read as it lies, without an order to stop at.
            let objects = self.objects.list_with_delimiter(Some(&prefix)).await.map_err(describe)?.objects;
            let found: Vec<_> =
                objects.into_iter().map(listed).filter(|object| object.key.starts_with(&begins)).collect();
            if let Place::Directory(root) = &self.place
                && found.is_empty()
            {
                directory::refuse_empty(root)?;
            }
            return Ok(found);
        };
        // The library leaves out a blob whose whole name is what was asked for: there one character less is asked for.
        let asked = match (&self.place, begins.char_indices().next_back()) {
            (Place::Azure { .. }, Some((last, _))) if !name.is_empty() => &begins[..last],
            _ => begins.as_str(),
        };
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let options = PaginatedListOptions { page_token: token.clone(), ..PaginatedListOptions::default() };
            let page = pages.list_paginated(Some(asked), options).await.map_err(describe)?;
            found.extend(page.result.objects.into_iter().map(listed).filter(|object| object.key.starts_with(&begins)));
            match page.page_token {
                None => return Ok(found),
                same if same == token => {
                    let message = format!("could not list objects in \"{directory}\": the same page came twice");
                    return Err(Error::new(ErrorKind::Unreachable, message));
                }
                next => token = next,
            }
        }
    }

    /// The "directories" directly in `directory` (which ends in `/`), each ending in `/`.
    pub async fn list_directories(&self, directory: &str) -> Result<Vec<String>> {
        self.list_level(directory).await.map(|(directories, _)| directories)
    }

    /// What lies directly in `directory` (which ends in `/`): its "directories", each ending in `/`, and its objects.
    pub async fn list_level(&self, directory: &str) -> Result<(Vec<String>, Vec<Listed>)> {
        let describe = |error| self.listing_failed(directory, error);
        let answer = self.objects.list_with_delimiter(Some(&path_of(directory)?)).await.map_err(describe)?;
        let directories = answer.common_prefixes.iter().map(|prefix| format!("{prefix}/")).collect();
        Ok((directories, answer.objects.into_iter().map(listed).collect()))
    }

    /// A bucket that is missing is named in the answer's text alone.
    fn listing_failed(&self, directory: &str, error: object_store::Error) -> Error {
        let absent = failure::no_such_container(&error);
        let error = failure::describe("list objects in", directory, error);
        self.not_absent(if absent { error.as_kind(ErrorKind::NotFound) } else { error })
    }
}
