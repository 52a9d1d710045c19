//! A JSON document of ours: pretty-printed for people, with a schema number that is looked at before anything else.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A kind of document.
pub(crate) struct DocumentKind {
    /// What it is called in errors: `the record of a drill`.
    pub(crate) what: &'static str,
    /// The version of the format that is written and read.
    pub(crate) schema: u32,
    /// How long one may be.
    pub(crate) most_bytes: u64,
}

impl DocumentKind {
    /// A document's text, with a line feed at the end.
    pub(crate) fn write(&self, document: &impl Serialize) -> Result<String> {
        let fail =
            |error: serde_json::Error| Error::new(ErrorKind::Bug, format!("could not write {}: {error}", self.what));
        let mut json = serde_json::to_string_pretty(document).map_err(fail)?;
        json.push('\n');
        Ok(json)
    }

    /// Reads one. Errors: `Corrupt` for one that is too long, and for what is no such JSON; `Mismatch` for another schema.
    pub(crate) fn read<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        if json.len() as u64 > self.most_bytes {
            return Err(self.corrupt(format!("its {} bytes are more than {}", json.len(), self.most_bytes)));
        }
        let Version { schema } = serde_json::from_slice(json).map_err(|error| self.corrupt(error))?;
        if schema != self.schema {
            let message = format!("could not read {}: its schema is {schema}, not {}", self.what, self.schema);
            return Err(Error::new(ErrorKind::Mismatch, message).with_hint("Use a newer version of barback."));
        }
        serde_json::from_slice(json).map_err(|error| self.corrupt(error))
    }

    /// Why a document cannot be read.
    pub(crate) fn corrupt(&self, why: impl std::fmt::Display) -> Error {
        Error::corrupt(format!("could not read {}: {why}", self.what))
    }
}
