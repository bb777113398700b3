//! A benchmark's outcome as one page that needs nothing but itself: no scripts, fonts or images from
//! elsewhere. Plots are SVG within it.

mod contender;
pub mod drain;
pub mod lag;
mod plot;
pub mod stages;
pub mod write;

use std::fmt::{self, Write as _};

use super::Setting;
use super::spread::{bytes, thousands};
use crate::sandbox::ServerKind;

const STYLE: &str = "
:root { --ink: #1c2330; --quiet: #5c6675; --line: #dfe4ea; --own: #1b66c9; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f5f8; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 48px 56px; background: var(--paper); }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 38px 0 6px; }
p { margin: 6px 0; max-width: 76ch; }
.lead, figcaption, .quiet { color: var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 24px 0 8px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; }
.card b { display: block; font-size: 27px; line-height: 1.2; color: var(--own); font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: 13.5px; }
figure { margin: 12px 0 0; }
figure svg { width: 100%; height: auto; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 0; font-size: 13.5px; color: var(--quiet); }
.legend i { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin-right: 6px; vertical-align: middle; }
table { border-collapse: collapse; width: 100%; margin: 12px 0 0; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--quiet); vertical-align: bottom; }
td { text-align: right; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tr.own td { font-weight: 600; }
td small { display: block; color: var(--quiet); font-weight: 400; white-space: nowrap; }
table.facts td { text-align: left; }
table.facts td:first-child { color: var(--quiet); width: 190px; }
.warn { background: #fff4e0; border: 1px solid #f0c987; border-radius: 8px; padding: 10px 14px; margin: 18px 0 0; max-width: none; }
@media print { body { background: #fff; } main { padding: 0; } figure, .cards, table { break-inside: avoid; } }
";

/// A page in the making.
#[derive(Debug)]
pub(super) struct Page {
    body: String,
    title: String,
}

impl Page {
    /// Begins with a heading and a line below it.
    fn new(title: &str, lead: &str) -> Self {
        let mut page = Self {
            body: String::new(),
            title: title.to_owned(),
        };
        page.push(format_args!(
            "<h1>{}</h1>\n<p class=\"lead\">{}</p>\n",
            Text(title),
            Text(lead)
        ));
        page
    }

    fn push(&mut self, html: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(html);
    }

    /// What makes the figures worth less than they look.
    fn warnings(&mut self, setting: &Setting, others: Option<f64>) {
        if !setting.optimised {
            self.warning("twinlog was built without optimisations: these figures say nothing about its speed.");
        }
        if let Some(share) = others.filter(|share| *share > 0.1) {
            self.warning(&format!(
                "Other programs took up to {:.0} % of the machine during the runs. Times are longer than they \
                 would be; the contenders took turns, so that their ratios say more than their times.",
                share * 100.0
            ));
        }
    }

    fn warning(&mut self, text: &str) {
        self.push(format_args!("<p class=\"warn\">{}</p>\n", Text(text)));
    }

    /// The figures that one remembers: each with what it is.
    fn cards(&mut self, cards: &[(String, String)]) {
        self.push(format_args!("<div class=\"cards\">"));
        for (figure, what) in cards {
            self.push(format_args!(
                "<div class=\"card\"><b>{}</b><span>{}</span></div>",
                Text(figure),
                Text(what)
            ));
        }
        self.push(format_args!("</div>\n"));
    }

    /// A plot below its heading, with what it shows, and the names of its lines.
    fn figure(&mut self, title: &str, caption: &str, svg: &str, legend: &[(String, String)]) {
        self.push(format_args!(
            "<h2>{}</h2>\n<figure><figcaption>{}</figcaption>",
            Text(title),
            Text(caption)
        ));
        if !legend.is_empty() {
            self.push(format_args!("<div class=\"legend\">"));
            for (name, colour) in legend {
                self.push(format_args!(
                    "<span><i style=\"background:{colour}\"></i>{}</span>",
                    Text(name)
                ));
            }
            self.push(format_args!("</div>"));
        }
        self.push(format_args!("{svg}</figure>\n"));
    }

    /// A table; rows with `true` are twinlog's. What follows a line break in a cell is smaller.
    fn table(&mut self, title: &str, head: &[&str], rows: &[(bool, Vec<String>)]) {
        self.push(format_args!("<h2>{}</h2>\n<table><tr>", Text(title)));
        for name in head {
            self.push(format_args!("<th>{}</th>", Text(name)));
        }
        self.push(format_args!("</tr>\n"));
        for (own, cells) in rows {
            let class = if *own { " class=\"own\"" } else { "" };
            self.push(format_args!("<tr{class}>"));
            for cell in cells {
                match cell.split_once('\n') {
                    Some((text, small)) => self.push(format_args!(
                        "<td>{}<small>{}</small></td>",
                        Text(text),
                        Text(small)
                    )),
                    None => self.push(format_args!("<td>{}</td>", Text(cell))),
                }
            }
            self.push(format_args!("</tr>\n"));
        }
        self.push(format_args!("</table>\n"));
    }

    /// How it was measured, and what it depends on.
    fn end(mut self, setting: &Setting, method: &[&str], more: &[(&str, String)]) -> String {
        self.push(format_args!("<h2>How it was measured</h2>\n"));
        for paragraph in method {
            self.push(format_args!("<p>{}</p>\n", Text(paragraph)));
        }
        let (machine, load) = (&setting.machine, &setting.load);
        let settings = &setting.settings;
        let mut facts = vec![
            ("Date", setting.date.clone()),
            (
                "Machine",
                format!(
                    "{} cores, {}, {} of memory",
                    machine.cores,
                    machine.cpu,
                    bytes(machine.memory_bytes as f64)
                ),
            ),
            ("System", format!("{}, {}", machine.system, machine.kernel)),
            (
                "Servers",
                format!("two of {} {}", product(setting), setting.server_version),
            ),
            ("twinlog", setting.twinlog_version.clone()),
            ("Durability", settings.durability()),
            (
                "Engine settings",
                if setting.settings.engine.is_empty() {
                    "defaults; conflict detection on".to_owned()
                } else {
                    setting.settings.engine.join("; ") + "; conflict detection on"
                },
            ),
            (
                "Load",
                format!(
                    "{}, rows chosen {}, {} tables of {} rows, {} clients, seed {}",
                    load.shape,
                    load.distribution,
                    load.tables,
                    thousands(u64::from(load.rows)),
                    load.threads,
                    load.seed
                ),
            ),
        ];
        if settings.is_own() {
            let servers = settings.own_servers.iter();
            facts.extend(servers.map(|server| ("Found", server.describe())));
        } else {
            facts.push(("Server arguments", settings.server_args.join(" ")));
        }
        facts.extend(more.iter().map(|(name, fact)| (*name, fact.clone())));
        self.push(format_args!("<table class=\"facts\">"));
        for (name, fact) in &facts {
            self.push(format_args!(
                "<tr><td>{}</td><td>{}</td></tr>\n",
                Text(name),
                Text(fact)
            ));
        }
        self.push(format_args!("</table>\n"));
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
             <style>{STYLE}</style></head>\n<body><main>\n{}</main></body></html>\n",
            Text(&self.title),
            self.body
        )
    }
}

/// What is said of servers that were there anyway.
const OWN_SERVERS: &str = "The servers were there anyway, and nothing of theirs was changed: their own replication \
    is not measured, since it would have to be set up there. Engines and clients ran on one machine, both engines \
    reaching both servers from there. Whatever else the servers did meanwhile is in the figures.";

/// Twinlog, and what it is measured beside.
fn beside(setting: &Setting, what: &str) -> String {
    if setting.is_own() {
        return format!("twinlog between two {} servers", product(setting));
    }
    format!("twinlog beside {}'s {what}", product(setting))
}

/// Ends what [`lead`] says of the conditions where rows are compared.
const ROWS_COMPARED: &str = ", rows compared after every run";

/// The line below the title: server, load, which is called `load`, and conditions.
fn lead(setting: &Setting, load: &str, compared: &str) -> String {
    format!(
        "{} {}, {} {load}, {}, conflict detection on{compared}. {}",
        product(setting),
        setting.server_version,
        setting.load.shape,
        setting.settings.durable_or_not(),
        setting.date
    )
}

/// The server's name as people write it.
fn product(setting: &Setting) -> &'static str {
    match setting.server {
        ServerKind::MariaDb => "MariaDB",
        ServerKind::MySql => "MySQL",
    }
}

/// Text within a page.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_be_markup() {
        assert_eq!(
            Text("a <b> & \"c\"").to_string(),
            "a &lt;b&gt; &amp; &quot;c&quot;"
        );
    }
}
