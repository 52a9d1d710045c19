//! Which databases and tables a server has, read from its catalogs alone: no table is opened, and so none is waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::connection::{Answer, QUICK, Session};
use crate::domain::table_comparison::{DatabaseTables, TableFacts, TableName};
use crate::error::Result;

/// The number of the role that `initdb` makes (`BOOTSTRAP_SUPERUSERID`), whatever it is called.
const BOOTSTRAP_SUPERUSER: u32 = 10;

/// The databases that take connections, by name; `within` is how long the server has for it.
///
/// One that a broken DROP DATABASE left behind (`datconnlimit` -2) takes none, whatever it says.
pub async fn databases(session: &Session, within: Duration) -> Result<Vec<String>> {
    let sql = "SELECT datname::text AS name FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1";
    let rows = session.rows("read the names of the databases", sql, &[], within).await?;
    rows.iter().map(|row| row.get("name").map(str::to_owned)).collect()
}

/// The name of the role that `initdb` made.
pub async fn bootstrap_superuser(session: &Session, within: Duration) -> Result<String> {
    let sql = format!("SELECT rolname::text AS name FROM pg_roles WHERE oid = {BOOTSTRAP_SUPERUSER}");
    let row = session.row("read the name of the first role", &sql, &[], within).await?;
    row.get("name").map(str::to_owned)
}

/// The largest tables of the session's database, at most `most`, and how many more there are.
///
/// Permanent tables, partitioned tables and materialized views outside the system's schemas, with PostgreSQL's estimates. The
/// server itself ends the query after `within`.
pub async fn largest(session: &Session, most: u32, within: Duration) -> Result<DatabaseTables> {
    const DOING: &str = "read the names of the tables";
    session.run(DOING, &format!("SET statement_timeout = {}", within.as_millis())).await?;
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name, c.oid::text AS oid, c.relkind::text AS kind, \
         c.reltuples::int8::text AS rows, c.relpages::text AS pages, (count(*) OVER ())::text AS total \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {} ORDER BY c.relpages DESC, c.oid LIMIT {most}",
        is_a_table("c", "n")
    );
    let rows = session.rows(DOING, &sql, &[], within).await?;
    let total: u64 = rows.first().map_or(Ok(0), |row| row.parse("total"))?;
    let tables: BTreeMap<_, _> = rows.iter().map(table).collect::<Result<_>>()?;
    Ok(DatabaseTables { left_out: total.saturating_sub(tables.len() as u64), tables })
}

/// Those tables of the session's database that are called so, with the pages that their files have, not an estimate of them.
///
/// Looks at files, for which it waits behind whoever holds a table: for a server that nobody else uses.
pub async fn named<'a>(
    session: &Session,
    names: impl Iterator<Item = &'a TableName> + Clone,
    within: Duration,
) -> Result<BTreeMap<TableName, TableFacts>> {
    let schemas: Vec<&str> = names.clone().map(|name| name.schema.as_str()).collect();
    let names: Vec<&str> = names.map(|name| name.name.as_str()).collect();
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name, c.oid::text AS oid, c.relkind::text AS kind, \
         c.reltuples::int8::text AS rows, \
         (coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8)::text AS pages \
         FROM unnest($1::text[], $2::text[]) AS wanted(schema, name) \
         JOIN pg_namespace n ON n.nspname = wanted.schema \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name WHERE {}",
        is_a_table("c", "n")
    );
    let rows = session.rows("look at the tables", &sql, &[&schemas, &names], within).await?;
    rows.iter().map(table).collect()
}

/// Unlogged tables are emptied by recovery, temporary ones vanish.
fn is_a_table(class: &str, namespace: &str) -> String {
    format!(
        "{class}.relkind IN ('r', 'p', 'm') AND {class}.relpersistence = 'p' \
         AND {namespace}.nspname NOT IN ('pg_catalog', 'information_schema') AND {namespace}.nspname !~ '^pg_(toast|temp)'"
    )
}

fn table(row: &Answer) -> Result<(TableName, TableFacts)> {
    let name = TableName { schema: row.get("schema")?.to_owned(), name: row.get("name")?.to_owned() };
    // Nothing was ever counted: -1 from version 14 on. Partitioned tables have -1 pages in some versions.
    let (rows, pages): (i64, i64) = (row.parse("rows")?, row.parse("pages")?);
    let facts = TableFacts {
        oid: row.parse("oid")?,
        kind: row.parse("kind")?,
        rows: u64::try_from(rows).ok(),
        pages: u64::try_from(pages).unwrap_or(0),
    };
    Ok((name, facts))
}

/// How long the server has for a question about its catalogs where nobody waits.
pub const PATIENT: Duration = QUICK;
