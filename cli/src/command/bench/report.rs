//! `--report FILE`: where the page goes.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

/// A file that is there and can be written to.
pub(super) struct ReportFile {
    file: File,
    name: String,
}

/// Opens the file before anything is measured: minutes of measuring must not end in a wrong path.
pub(super) fn check(path: Option<&Path>) -> anyhow::Result<Option<ReportFile>> {
    let Some(path) = path else { return Ok(None) };
    let name = path.display().to_string();
    // What is there stays until there is something new.
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("--report {name}: cannot write there"))?;
    Ok(Some(ReportFile { file, name }))
}

/// Writes the page, if one is wanted.
pub(super) fn write(
    file: Option<ReportFile>,
    page: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let Some(mut report) = file else {
        return Ok(());
    };
    let page = page().context("cannot draw the report")?;
    report
        .file
        .set_len(0)
        .and_then(|()| report.file.write_all(page.as_bytes()))
        .with_context(|| format!("cannot write {}", report.name))
}
