//! Is it safe to archive WAL here: is the place empty, or at least of older timelines?

use std::collections::BTreeSet;

use crate::commands::answer::{Answer, Refusal, RefusalKind};
use crate::commands::archive::Archive;
use crate::domain::wal_removal::{timeline_of, wal_name};
use crate::error::Result;
use crate::store::{Listed, Probe};

/// Looks for WAL that a new cluster would collide with; creates the bucket when it is not there, as Barman 3.19.1 does.
///
/// Without a timeline any WAL counts, and the look ends with the first: one page of a listing. With one, WAL of that
/// timeline and of those above counts, and all of it is counted, for the message says how much there is.
///
/// Refused, in Barman's words: there is some (`Operation`), or there is no connection (`Network`).
pub async fn wal_archive_check(archive: &Archive, timeline: Option<u32>) -> Result<Answer<()>> {
    let root = archive.prefix.root();
    match archive.store.probe(&root).await? {
        Probe::Present => {}
        Probe::Absent => archive.store.create_container(&root).await?,
        Probe::NoConnection(cause) => {
            let text = format!("Can't connect to cloud provider: {cause}");
            return Ok(Answer::Refused(Refusal { text, kind: RefusalKind::Network }));
        }
    }
    let mut found: BTreeSet<String> = BTreeSet::new();
    let look = |object: Listed| {
        let name = wal_name(&object.key);
        let counts =
            |name: &&str| timeline.is_none_or(|least| timeline_of(name).is_some_and(|timeline| timeline >= least));
        found.extend(name.filter(counts).map(str::to_owned));
        timeline.is_some() || found.is_empty()
    };
    archive.store.list_while(&archive.prefix.wals(), None, look).await?;
    let problem = match (found.len(), timeline) {
        (0, _) => return Ok(Answer::Given(())),
        (_, None) => "Expected empty archive".to_owned(),
        (count, Some(least)) => format!(
            "Found {count} file{} in WAL archive equal to or newer than timeline {least}",
            if count == 1 { "" } else { "s" }
        ),
    };
    Ok(Answer::refused(format!("WAL archive check failed for server {}: {problem}", archive.prefix.server())))
}
