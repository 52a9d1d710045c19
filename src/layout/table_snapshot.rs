//! `barback-tables.json.zst`: which tables a cluster had when it was backed up, so that a drill can miss one.
//!
//! Names and estimates of the catalog, and nothing that a table holds. No restore needs it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::backup::BackupId;
use crate::domain::table_comparison::{DatabaseTables, Databases, TableFacts, TableName};
use crate::error::{Error, Result};
use crate::layout::json_document::DocumentKind;
use crate::layout::json_time::as_rfc3339;

/// The version of the format this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// How long a snapshot may be, unpacked: some hundred thousand tables.
pub const LIMIT_BYTES: u64 = 64 << 20;

const KIND: DocumentKind = DocumentKind { what: "a table snapshot", schema: SCHEMA, most_bytes: LIMIT_BYTES };

/// The tables of a cluster at the end of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSnapshot {
    /// The backup beside which it lies.
    pub backup_id: BackupId,
    /// When it was taken, by the clock of the host that took the backup.
    pub taken: DateTime<Utc>,
    /// The name of the role that `initdb` made.
    pub superuser: String,
    /// The databases that could be looked into, by name.
    pub databases: Databases,
    /// How many there are beside them.
    pub databases_left_out: u64,
}

#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    backup_id: String,
    #[serde(with = "as_rfc3339")]
    taken: DateTime<Utc>,
    superuser: String,
    databases: Vec<DatabaseDocument>,
    databases_left_out: u64,
}

#[derive(Serialize, Deserialize)]
struct DatabaseDocument {
    name: String,
    tables: Vec<TableDocument>,
    tables_left_out: u64,
}

#[derive(Serialize, Deserialize)]
struct TableDocument {
    schema: String,
    name: String,
    oid: u32,
    kind: char,
    rows: Option<u64>,
    pages: u64,
}

impl TableSnapshot {
    /// The snapshot as JSON that people can read, with a line feed at the end.
    pub fn to_json(&self) -> Result<String> {
        let databases = self.databases.iter().map(|(name, database)| DatabaseDocument {
            name: name.clone(),
            tables: database.tables.iter().map(|(name, facts)| TableDocument::of(name, *facts)).collect(),
            tables_left_out: database.left_out,
        });
        let document = Document {
            schema: SCHEMA,
            backup_id: self.backup_id.to_string(),
            taken: self.taken,
            superuser: self.superuser.clone(),
            databases: databases.collect(),
            databases_left_out: self.databases_left_out,
        };
        KIND.write(&document)
    }

    /// Reads a snapshot.
    ///
    /// Errors: `Corrupt` for more than [`LIMIT_BYTES`] and for what is no such JSON; `Mismatch` for another schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let document: Document = KIND.read(json)?;
        let databases = document.databases.into_iter().map(|database| {
            let tables: BTreeMap<_, _> = database.tables.into_iter().map(TableDocument::read).collect();
            (database.name, DatabaseTables { tables, left_out: database.tables_left_out })
        });
        Ok(Self {
            backup_id: document.backup_id.parse().map_err(|error: Error| KIND.corrupt(error))?,
            taken: document.taken,
            superuser: document.superuser,
            databases: databases.collect(),
            databases_left_out: document.databases_left_out,
        })
    }
}

impl TableDocument {
    fn of(table: &TableName, facts: TableFacts) -> Self {
        let TableFacts { oid, kind, rows, pages } = facts;
        Self { schema: table.schema.clone(), name: table.name.clone(), oid, kind, rows, pages }
    }

    fn read(self) -> (TableName, TableFacts) {
        let Self { schema, name, oid, kind, rows, pages } = self;
        (TableName { schema, name }, TableFacts { oid, kind, rows, pages })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn snapshot() -> TableSnapshot {
        let table = |name: &str, facts| (TableName { schema: "public".to_owned(), name: name.to_owned() }, facts);
        let tables = BTreeMap::from([
            table("customers", TableFacts { oid: 16_392, kind: 'r', rows: None, pages: 0 }),
            table("orders", TableFacts { oid: 16_385, kind: 'r', rows: Some(120_000), pages: 883 }),
        ]);
        TableSnapshot {
            backup_id: "20261123T205300".parse().unwrap(),
            taken: "2026-11-23T20:53:02.668334Z".parse().unwrap(),
            superuser: "postgres".to_owned(),
            databases: BTreeMap::from([("shop".to_owned(), DatabaseTables { tables, left_out: 0 })]),
            databases_left_out: 0,
        }
    }

    #[test]
    fn a_snapshot_is_written_as_documented() {
        let formats = include_str!("../../docs/formats.md");
        let json = snapshot().to_json().unwrap();
        assert!(formats.contains(json.trim_end()), "docs/formats.md shows another snapshot than\n{json}");
    }

    #[test]
    fn a_snapshot_is_read_back_and_unknown_fields_passed_over() {
        let json = snapshot().to_json().unwrap();
        assert_eq!(TableSnapshot::from_json(json.as_bytes()).unwrap(), snapshot());
        let more = json.replace("\"oid\"", "\"later\": {}, \"oid\"").replacen('{', "{ \"later\": [1, {}],", 1);
        assert_eq!(TableSnapshot::from_json(more.as_bytes()).unwrap(), snapshot());
        let other = json.replace("\"schema\": 1,", "\"schema\": 2,");
        assert_eq!(TableSnapshot::from_json(other.as_bytes()).unwrap_err().kind(), ErrorKind::Mismatch);
        for (from, to) in [("20261123T205300", "../x"), ("\"r\"", "\"rr\""), ("883", "-883"), ("}\n", "\n")] {
            let wrong = json.replacen(from, to, 1);
            assert_ne!(json, wrong, "{from}");
            assert_eq!(TableSnapshot::from_json(wrong.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{from}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let _ = TableSnapshot::from_json(&bytes);
            let _ = TableSnapshot::from_json(text.as_bytes());
        }

        /// Bytes of a real snapshot with one of them changed.
        #[test]
        fn a_damaged_snapshot_is_read_or_refused(at in any::<prop::sample::Index>(), byte: u8) {
            let mut json = snapshot().to_json().unwrap().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            let _ = TableSnapshot::from_json(&json);
        }
    }
}
