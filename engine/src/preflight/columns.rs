//! Column types: which can be carried, and when two are the same.

use super::facts::Column;
use crate::schema::is_spatial;

/// Whether a `DATA_TYPE` survives the way through the log and a statement unchanged.
pub(super) fn is_carried(data_type: &str) -> bool {
    is_spatial(data_type)
        || matches!(
            data_type,
            "tinyint"
                | "smallint"
                | "mediumint"
                | "int"
                | "bigint"
                | "decimal"
                | "float"
                | "double"
                | "bit"
                | "date"
                | "time"
                | "datetime"
                | "timestamp"
                | "year"
                | "char"
                | "varchar"
                | "tinytext"
                | "text"
                | "mediumtext"
                | "longtext"
                | "binary"
                | "varbinary"
                | "tinyblob"
                | "blob"
                | "mediumblob"
                | "longblob"
                | "enum"
                | "set"
                | "json"
                | "uuid"
                | "inet4"
                | "inet6"
                | "vector"
        )
}

/// A column as it matters to replication, in words: two columns are the same when these are equal.
pub(super) fn describe(column: &Column) -> String {
    let mut text = without_width(&column.column_type);
    if let Some(collation) = &column.collation {
        text.push_str(" collate ");
        text.push_str(collation);
    }
    text.push_str(if column.nullable {
        " null"
    } else {
        " not null"
    });
    let extra = column.extra.to_ascii_lowercase();
    for word in ["auto_increment", "invisible"] {
        if extra.split_whitespace().any(|found| found == word) {
            text.push(' ');
            text.push_str(word);
        }
    }
    if let Some(expression) = &column.generation {
        let stored = extra.contains("stored") || extra.contains("persistent");
        text.push_str(if stored { " stored" } else { " virtual" });
        text.push_str(" as ");
        text.push_str(expression);
    }
    text
}

/// Drops the display width of integers, which some versions show and some do not.
fn without_width(column_type: &str) -> String {
    let text = column_type.to_ascii_lowercase();
    let integer = ["tinyint", "smallint", "mediumint", "int", "bigint", "year"]
        .iter()
        .any(|name| {
            text.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('('))
        });
    match (text.find('('), text.find(')')) {
        (Some(open), Some(close)) if integer && open < close && !text.contains("zerofill") => {
            format!("{}{}", &text[..open], &text[close + 1..])
        }
        // Members of ENUM and SET keep their case.
        _ if text.starts_with("enum(") || text.starts_with("set(") => column_type.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_no_difference_but_lengths_are() {
        assert_eq!(without_width("int(10) unsigned"), "int unsigned");
        assert_eq!(without_width("bigint(20)"), without_width("bigint"));
        assert_ne!(without_width("varchar(10)"), without_width("varchar(20)"));
        assert_eq!(
            without_width("int(5) unsigned zerofill"),
            "int(5) unsigned zerofill"
        );
        assert_eq!(without_width("enum('A','b')"), "enum('A','b')");
        assert_eq!(without_width("decimal(10,2)"), "decimal(10,2)");
    }

    #[test]
    fn what_makes_two_columns_differ() {
        let column = |change: fn(&mut Column)| {
            let mut column = Column {
                name: "c".to_owned(),
                column_type: "varchar(10)".to_owned(),
                collation: Some("utf8mb4_bin".to_owned()),
                extra: "on update current_timestamp()".to_owned(),
                ..Column::default()
            };
            change(&mut column);
            describe(&column)
        };
        let plain = column(|_| ());
        assert_eq!(plain, "varchar(10) collate utf8mb4_bin not null");
        assert_eq!(plain, column(|column| column.extra.clear()));
        assert_ne!(plain, column(|column| column.nullable = true));
        assert_ne!(
            plain,
            column(|column| column.collation = Some("utf8mb4_general_ci".to_owned()))
        );
        assert_ne!(
            plain,
            column(|column| column.generation = Some("1".to_owned()))
        );
        assert_ne!(
            plain,
            column(|column| column.extra = "auto_increment".to_owned())
        );
    }
}
