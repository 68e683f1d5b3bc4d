//! What is wrong with a configuration: every problem with its place and its remedy.
//!
//! Says the same in three widths: one line ([`ConfigError::summary`]), complete and plain
//! (`Display`, for journals and pipes), complete and drawn ([`ConfigError::render`], for terminals).

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError,
    MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Lines wrap here when the width of the terminal is not known.
const WIDTH: usize = 100;

/// So much context makes an [`Excerpt`] show the lines of the place, and no others.
const WHOLE_LINES: usize = 1;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, with the value: `unknown key "workres" in [app]`.
    pub message: String,
    /// Beside the caret, when a few words help: `did you mean "workers"?`.
    pub hint: Option<String>,
    /// What to write or do.
    pub remedy: String,
    /// None: it is not in the file, but in the command line, or in what is missing.
    pub place: Option<Place>,
}

/// A place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Bytes of the text, on character boundaries, within the text.
    pub span: Range<usize>,
}

impl Place {
    /// Finds a span in its text; a span outside of the text is moved to its end.
    pub fn new(text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end).max(start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Self {
            line: before.matches('\n').count() + 1,
            column,
            span: start..end,
        }
    }
}

/// How an error is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// ASCII without colours, for journals, pipes and NO_COLOR.
    Plain,
    /// Lines and colours, for terminals.
    Drawn,
}

/// All that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// The file, as it was asked for; none when there is none.
    pub file: Option<PathBuf>,
    /// What the file says, for the excerpts.
    pub text: String,
    /// In the order of the file; those without a place come last.
    pub problems: Vec<Problem>,
    /// A second file, the release's, and where in the text it begins.
    pub beside: Option<(PathBuf, usize)>,
}

impl ConfigError {
    pub(super) fn new(file: Option<&Path>, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| {
            problem
                .place
                .as_ref()
                .map_or(usize::MAX, |place| place.span.start)
        });
        Self {
            file: file.map(Path::to_owned),
            text: text.to_owned(),
            problems,
            beside: None,
        }
    }

    /// In which file a problem is, and where there.
    pub fn place_of(&self, problem: &Problem) -> (Option<&Path>, Option<Place>) {
        let (file, _, place) = self.locate(problem);
        (file, place)
    }

    /// In which file a problem is, what that says, and where there.
    fn locate(&self, problem: &Problem) -> (Option<&Path>, &str, Option<Place>) {
        let (first, beside) = match &self.beside {
            Some((path, split)) => {
                let parts = self.text.split_at_checked(*split);
                let (first, second) = parts.unwrap_or((&self.text, ""));
                (first, Some((path, second, *split)))
            }
            None => (self.text.as_str(), None),
        };
        match (&problem.place, beside) {
            (Some(place), Some((path, second, split))) if place.span.start >= split => {
                let span = place.span.start - split..place.span.end.saturating_sub(split);
                (Some(path), second, Some(Place::new(second, span)))
            }
            (place, _) => (self.file.as_deref(), first, place.clone()),
        }
    }

    /// The first problem in one line, and how many more there are:
    /// `gapless.toml:7: unknown key "workres" in [app]; did you mean "workers"? (and 2 more)`.
    pub fn summary(&self) -> String {
        let Some(first) = self.problems.first() else {
            return "invalid configuration".to_owned();
        };
        let place = match self.locate(first) {
            (Some(file), _, Some(place)) => format!("{}:{}: ", file.display(), place.line),
            (Some(file), _, None) => format!("{}: ", file.display()),
            (None, _, _) => String::new(),
        };
        let advice = first
            .hint
            .as_ref()
            .unwrap_or(&first.remedy)
            .replace('\n', " ");
        let more = match self.problems.len().saturating_sub(1) {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let line = format!("{place}{}; {advice}{more}", first.message);
        line.replace(char::is_control, " ")
    }

    /// Every problem with its place, the line itself with a caret, and its remedy.
    pub fn render(&self, look: Look) -> String {
        let theme = match look {
            Look::Plain => GraphicalTheme::none(),
            Look::Drawn => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(WIDTH)
            .with_context_lines(WHOLE_LINES)
            .with_break_words(false)
            .with_links(false);
        let mut rendered = String::new();
        for problem in &self.problems {
            if !rendered.is_empty() {
                rendered.push('\n');
            }
            let report = Report::new(problem, self);
            if handler.render_report(&mut rendered, &report).is_err() {
                // Writing to a String cannot fail, but an excerpt can be refused.
                rendered.extend([
                    problem.message.as_str(),
                    "\n  help: ",
                    &problem.remedy,
                    "\n",
                ]);
            }
        }
        rendered
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Look::Plain).trim_end())
    }
}

/// A problem as miette wants to see it.
#[derive(Debug)]
struct Report<'a> {
    problem: &'a Problem,
    title: String,
    excerpt: Option<Excerpt<'a>>,
    place: Option<Place>,
}

impl<'a> Report<'a> {
    fn new(problem: &'a Problem, error: &'a ConfigError) -> Self {
        let (file, text, place) = error.locate(problem);
        let file = file.map(|file| file.display().to_string());
        let title = match (&file, &problem.place) {
            (Some(file), None) => format!("{file}: {}", problem.message),
            (Some(_) | None, _) => problem.message.clone(),
        };
        let file = file.unwrap_or_else(|| "configuration".to_owned());
        let excerpt = place.as_ref().map(|_| Excerpt { file, text });
        Self {
            problem,
            title,
            excerpt,
            place,
        }
    }
}

/// The text of the file, of which whole lines are shown.
#[derive(Debug)]
struct Excerpt<'a> {
    file: String,
    text: &'a str,
}

impl SourceCode for Excerpt<'_> {
    /// Asked without context, to learn line and column, and with it, for the lines to show.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_before: usize,
        _context_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let place = Place::new(
            self.text,
            span.offset()..span.offset().saturating_add(span.len()),
        );
        let Range { start, end } = place.span;
        let (start, end, column) = if context_before == 0 {
            (start, end, place.column - 1)
        } else {
            let before = self.text.get(..start).unwrap_or_default();
            let after = self.text.get(end..).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            (line_start, end + after.find('\n').unwrap_or(after.len()), 0)
        };
        let lines = self.text.get(start..end).unwrap_or_default();
        let shown = SourceSpan::new(start.into(), lines.len());
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.clone(),
            lines.as_bytes(),
            shown,
            place.line - 1,
            column,
            lines.lines().count(),
        )))
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.problem.remedy))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.excerpt
            .as_ref()
            .map(|excerpt| -> &dyn SourceCode { excerpt })
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let length = place.span.end.saturating_sub(place.span.start);
        let span = SourceSpan::new(place.span.start.into(), length);
        let hint = self.problem.hint.clone();
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(
            hint, span,
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_not_bytes() {
        let text = "a = 1\nü = \"ß\" x\n";
        let place = Place::new(text, text.find('x').unwrap()..text.len());
        assert_eq!((place.line, place.column), (2, 9));
    }

    #[test]
    fn a_span_beyond_the_text_is_moved_to_its_end() {
        assert_eq!(Place::new("ab\n", 90..99).span, 3..3);
    }
}
