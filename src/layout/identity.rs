//! `barback/identity.json`: which cluster a server's prefix belongs to.

use std::fmt::Display;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::cluster::SystemIdentifier;
use crate::error::{Error, ErrorKind, Result};

/// The version of the format this crate writes and reads.
const SCHEMA: u32 = 1;
/// How long the object may be; it has some 100 bytes.
pub const MAX_BYTES: u64 = 64 << 10;

/// The cluster a prefix belongs to, recorded once, when the first of its files or backups came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// When it was recorded, by the clock of the host that did; for people.
    pub recorded: DateTime<Utc>,
}

/// The object's fields. The identifier is text: it has more digits than JSON's numbers are sure of.
#[derive(Serialize, Deserialize)]
struct Fields {
    schema: u32,
    system_identifier: String,
    recorded: String,
}

/// What is read first, so that another schema is told from damage.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

impl Identity {
    /// The identity as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let fields = Fields {
            schema: SCHEMA,
            system_identifier: self.system_identifier.to_string(),
            recorded: self.recorded.to_rfc3339_opts(SecondsFormat::Secs, true),
        };
        let json = serde_json::to_string(&fields).expect("a struct of numbers and texts is always JSON");
        format!("{json}\n")
    }

    /// Reads an identity; unknown fields are passed over, so that fields can be added without a new schema.
    ///
    /// Errors: `Corrupt` for what is no such JSON, `Mismatch` for another schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let corrupt = |why: &dyn Display| Error::corrupt(format!("could not read the archive's identity: {why}"));
        if json.len() as u64 > MAX_BYTES {
            return Err(corrupt(&format!("its {} bytes are more than {MAX_BYTES}", json.len())));
        }
        let Version { schema } = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
        if schema != SCHEMA {
            let message =
                format!("could not read the archive's identity: its schema is {schema}, this program reads {SCHEMA}");
            return Err(Error::new(ErrorKind::Mismatch, message).with_hint("Use a newer version of barback."));
        }
        let fields: Fields = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
        let recorded = DateTime::parse_from_rfc3339(&fields.recorded).map_err(|error| corrupt(&error))?;
        Ok(Self {
            system_identifier: fields.system_identifier.parse().map_err(|error| corrupt(&error))?,
            recorded: recorded.to_utc(),
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            system_identifier: SystemIdentifier(7_711_281_960_404_649_938),
            recorded: Utc.with_ymd_and_hms(2026, 11, 25, 3, 20, 0).unwrap(),
        }
    }

    #[test]
    fn an_identity_is_one_line_and_is_read_back() {
        let json = identity().to_json();
        assert_eq!(
            json,
            "{\"schema\":1,\"system_identifier\":\"7711281960404649938\",\"recorded\":\"2026-11-25T03:20:00Z\"}\n"
        );
        assert_eq!(Identity::from_json(json.as_bytes()).unwrap(), identity());
    }

    #[test]
    fn fields_added_later_are_passed_over_and_another_schema_is_not() {
        let json = identity().to_json();
        let later = json.replacen('{', "{\"later\":[1],", 1);
        assert_eq!(Identity::from_json(later.as_bytes()).unwrap(), identity());
        let error = Identity::from_json(b"{\"schema\":2}").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("its schema is 2"), "{error}");
    }

    #[test]
    fn what_names_no_cluster_is_corrupt_and_never_an_absent_identity() {
        let json = identity().to_json();
        for wrong in [
            String::new(),
            "{}".to_owned(),
            json.replace("7711281960404649938", "-1"),
            json.replace("7711281960404649938", "77112819604046499380"),
            json.replace("\"7711281960404649938\"", "7711281960404649938"),
            json.replace("2026-11-25", "yesterday"),
            json.replace('}', ""),
            " ".repeat(usize::try_from(MAX_BYTES).unwrap() + 1),
        ] {
            let error = Identity::from_json(wrong.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{wrong:.80}");
        }
    }

    proptest! {
        #[test]
        fn damaged_identities_do_no_harm(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = Identity::from_json(&bytes);
            let mut json = identity().to_json().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            if let Ok(read) = Identity::from_json(&json) {
                prop_assert_eq!(Identity::from_json(read.to_json().as_bytes()).unwrap().system_identifier, read.system_identifier);
            }
        }

        #[test]
        fn every_identity_comes_back(identifier: u64, seconds in 0..4_000_000_000_i64) {
            let recorded = Utc.timestamp_opt(seconds, 0).unwrap();
            let identity = Identity { system_identifier: SystemIdentifier(identifier), recorded };
            prop_assert_eq!(Identity::from_json(identity.to_json().as_bytes()).unwrap(), identity);
        }
    }
}
