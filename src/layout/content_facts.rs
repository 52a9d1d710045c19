//! What is said about a WAL object's content in its user metadata.

use std::collections::BTreeMap;

use crate::domain::cluster::SystemIdentifier;

/// Facts about the uncompressed content of an object, kept as its user metadata (`x-amz-meta-barback-…` on S3).
///
/// Objects written by Barman, and all objects of a `file://` store, carry none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFacts {
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length in bytes.
    pub length: u64,
    /// The cluster it came from, where the content tells.
    pub system_identifier: Option<SystemIdentifier>,
}

const SHA256: &str = "barback-sha256";
const LENGTH: &str = "barback-length";
const SYSTEM_IDENTIFIER: &str = "barback-system-identifier";

impl ContentFacts {
    /// The facts as metadata names and values.
    #[must_use]
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let mut metadata =
            BTreeMap::from([(SHA256.to_owned(), self.sha256.clone()), (LENGTH.to_owned(), self.length.to_string())]);
        if let Some(system_identifier) = self.system_identifier {
            metadata.insert(SYSTEM_IDENTIFIER.to_owned(), system_identifier.to_string());
        }
        metadata
    }

    /// Reads the facts back; `None` when there are none, or they are not ours.
    #[must_use]
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Option<Self> {
        let sha256 = metadata.get(SHA256).filter(|hex| hex.len() == 64)?.clone();
        let length = metadata.get(LENGTH)?.parse().ok()?;
        let system_identifier = metadata.get(SYSTEM_IDENTIFIER).and_then(|text| text.parse().ok());
        Some(Self { sha256, length, system_identifier })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_back_and_strangers_metadata_says_nothing() {
        let facts = ContentFacts {
            sha256: "ab".repeat(32),
            length: 1 << 24,
            system_identifier: Some(SystemIdentifier(7_711_281_960_404_649_938)),
        };
        assert_eq!(ContentFacts::from_metadata(&facts.to_metadata()), Some(facts));
        assert_eq!(ContentFacts::from_metadata(&BTreeMap::new()), None);
        assert_eq!(ContentFacts::from_metadata(&BTreeMap::from([(SHA256.to_owned(), "x".to_owned())])), None);
    }
}
