//! `catalogue.json.zst`: what the small objects of all backups said when they were last read, so that nobody need read them all.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the format.
const SCHEMA: u32 = 1;

/// What an unpacked cache may come to: some ten thousand backups.
pub const LIMIT_BYTES: u64 = 64 << 20;

/// The texts of `backup.info` and keep annotations, each with what a listing showed of the object when it was read.
///
/// Nothing is believed on its word: a text counts only while a listing shows the very same object. Losing the cache costs
/// one small request for each backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogCache {
    texts: BTreeMap<String, Entry>,
}

/// Which content of an object is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// The store's name for the content.
    pub e_tag: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    edition: Edition,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    texts: BTreeMap<String, Entry>,
}

impl CatalogCache {
    /// The text of the object called `name` below `base/`, if it is of this edition.
    #[must_use]
    pub fn text(&self, name: &str, edition: &Edition) -> Option<&str> {
        self.texts.get(name).filter(|entry| entry.edition == *edition).map(|entry| entry.text.as_str())
    }

    /// Takes in what was read of an object.
    pub fn insert(&mut self, name: String, edition: Edition, text: String) {
        self.texts.insert(name, Entry { edition, text });
    }

    /// How many objects it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// True when it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Reads a cache. Errors: `Corrupt` for anything but a cache of this schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let refuse = |why: String| Error::corrupt(format!("could not read the catalogue's cache: {why}"));
        let document: Document = serde_json::from_slice(json).map_err(|error| refuse(error.to_string()))?;
        if document.schema != SCHEMA {
            return Err(refuse(format!("its schema is {}, this program reads {SCHEMA}", document.schema)));
        }
        Ok(Self { texts: document.texts })
    }

    /// The cache as a JSON document.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let document = Document { schema: SCHEMA, texts: self.texts.clone() };
        serde_json::to_vec(&document).map_err(|error| Error::corrupt(format!("could not write a cache: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edition(e_tag: &str) -> Edition {
        Edition { e_tag: e_tag.to_owned(), bytes: 4, modified: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn a_text_counts_only_for_the_edition_it_was_read_from() {
        let mut cache = CatalogCache::default();
        cache.insert("20260101T000000/backup.info".to_owned(), edition("one"), "text".to_owned());
        let read = CatalogCache::from_json(&cache.to_json().unwrap()).unwrap();
        assert_eq!(read, cache);
        assert_eq!(read.text("20260101T000000/backup.info", &edition("one")), Some("text"));
        assert_eq!(read.text("20260101T000000/backup.info", &edition("two")), None);
        assert_eq!(read.text("20260102T000000/backup.info", &edition("one")), None);
        let longer = Edition { bytes: 5, ..edition("one") };
        assert_eq!(read.text("20260101T000000/backup.info", &longer), None);
        let later = Edition { modified: DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1), ..edition("one") };
        assert_eq!(read.text("20260101T000000/backup.info", &later), None);
    }

    #[test]
    fn another_schema_is_not_read() {
        assert!(
            CatalogCache::from_json(br#"{"schema":2,"texts":{}}"#).unwrap_err().to_string().contains("schema is 2")
        );
    }

    proptest! {
        #[test]
        fn damaged_caches_do_no_harm(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = CatalogCache::from_json(&bytes);
            let mut cache = CatalogCache::default();
            cache.insert("x".to_owned(), edition("one"), "text".to_owned());
            let mut json = cache.to_json().unwrap();
            let at = at.index(json.len());
            json[at] = byte;
            let _ = CatalogCache::from_json(&json);
        }
    }
}
