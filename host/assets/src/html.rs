//! From a path to a file: `html_handling` and `not_found_handling`.
//!
//! Each mode is a list of things to try for a path, by how the path ends; the first that there is a file for decides.
//! The lists are those of Cloudflare's asset worker and their order is observable: with both `a.html` and
//! `a/index.html` it decides which of them answers where. A redirect is given only when its target then serves the very
//! file that the redirect is for, so that none leads to another page, to a 404 or in a circle.

use host_config::{HtmlHandling, NotFoundHandling};

/// The files that a path could mean. Paths are decoded and start with a slash.
pub(crate) trait Lookup {
    /// A file.
    type Found;

    /// The file of exactly this path.
    fn find(&self, path: &str) -> Option<Self::Found>;

    /// Whether two files are one, or hold the same.
    fn same(&self, one: &Self::Found, other: &Self::Found) -> bool;
}

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Intent<F> {
    /// This file.
    Serve(F),
    /// Another path.
    Redirect(String),
    /// This file, since the path has none.
    Fallback {
        /// What is sent.
        file: F,
        /// Whether it says that nothing was found: status 404.
        missing: bool,
    },
    /// Nothing.
    Nothing,
}

/// A thing to try.
enum Step {
    /// The file of this path.
    Serve(String),
    /// To `to`, if `file` is there and is what `to` serves.
    Redirect { file: String, to: String },
}

/// What a path means under these settings.
pub(crate) fn resolve<L: Lookup>(
    path: &str,
    html: HtmlHandling,
    not_found: NotFoundHandling,
    files: &L,
) -> Intent<L::Found> {
    for step in steps(path, html) {
        match step {
            Step::Serve(file) => {
                if let Some(found) = files.find(&file) {
                    return Intent::Serve(found);
                }
            }
            Step::Redirect { file, to } => {
                if leads_to(&file, &to, html, files) {
                    return Intent::Redirect(to);
                }
            }
        }
    }
    fallback(path, not_found, files)
}

/// Whether a request for `to` would be answered, without a redirect, by `file`.
fn leads_to<L: Lookup>(file: &str, to: &str, html: HtmlHandling, files: &L) -> bool {
    let Some(wanted) = files.find(file) else { return false };
    if files.find(to).is_some() {
        return false;
    }
    let served = steps(to, html).into_iter().find_map(|step| match step {
        Step::Serve(file) => files.find(&file),
        Step::Redirect { .. } => None,
    });
    served.is_some_and(|served| files.same(&served, &wanted))
}

fn steps(path: &str, html: HtmlHandling) -> Vec<Step> {
    match html {
        HtmlHandling::AutoTrailingSlash => auto(path),
        HtmlHandling::ForceTrailingSlash => force(path),
        HtmlHandling::DropTrailingSlash => drop_slash(path),
        HtmlHandling::None => vec![serve(path)],
    }
}

fn serve(file: impl Into<String>) -> Step {
    Step::Serve(file.into())
}

fn redirect(file: impl Into<String>, to: impl Into<String>) -> Step {
    Step::Redirect { file: file.into(), to: to.into() }
}

/// How a path ends, with what is before.
enum Ending<'p> {
    Index(&'p str),
    IndexHtml(&'p str),
    Slash(&'p str),
    Html(&'p str),
    Other,
}

impl Ending<'_> {
    fn of(path: &str) -> Ending<'_> {
        if let Some(stem) = path.strip_suffix("/index") {
            Ending::Index(stem)
        } else if let Some(stem) = path.strip_suffix("/index.html") {
            Ending::IndexHtml(stem)
        } else if let Some(stem) = path.strip_suffix('/') {
            Ending::Slash(stem)
        } else if let Some(stem) = path.strip_suffix(".html") {
            Ending::Html(stem)
        } else {
            Ending::Other
        }
    }
}

/// `a.html` at `/a`, `a/index.html` at `/a/`.
fn auto(path: &str) -> Vec<Step> {
    let mut steps = match Ending::of(path) {
        Ending::Index(stem) => vec![
            serve(path),
            redirect(format!("{path}.html"), format!("{stem}/")),
            redirect(format!("{stem}.html"), stem),
        ],
        Ending::IndexHtml(stem) => vec![redirect(path, format!("{stem}/")), redirect(format!("{stem}.html"), stem)],
        Ending::Slash(stem) => vec![serve(format!("{path}index.html")), redirect(format!("{stem}.html"), stem)],
        Ending::Html(stem) => {
            vec![redirect(path, stem), redirect(format!("{stem}/index.html"), format!("{stem}/"))]
        }
        Ending::Other => Vec::new(),
    };
    steps.extend([
        serve(path),
        serve(format!("{path}.html")),
        redirect(format!("{path}/index.html"), format!("{path}/")),
    ]);
    steps
}

/// Both at `/a/`.
fn force(path: &str) -> Vec<Step> {
    let mut steps = match Ending::of(path) {
        Ending::Index(stem) => vec![
            serve(path),
            redirect(format!("{path}.html"), format!("{stem}/")),
            redirect(format!("{stem}.html"), format!("{stem}/")),
        ],
        Ending::IndexHtml(stem) => {
            vec![redirect(path, format!("{stem}/")), redirect(format!("{stem}.html"), format!("{stem}/"))]
        }
        Ending::Slash(stem) => vec![serve(format!("{path}index.html")), serve(format!("{stem}.html"))],
        Ending::Html(stem) => vec![
            redirect(path, format!("{stem}/")),
            serve(path),
            redirect(format!("{stem}/index.html"), format!("{stem}/")),
        ],
        Ending::Other => Vec::new(),
    };
    steps.extend([
        serve(path),
        redirect(format!("{path}.html"), format!("{path}/")),
        redirect(format!("{path}/index.html"), format!("{path}/")),
    ]);
    steps
}

/// Both at `/a`. The root keeps its slash, since a path cannot be without.
fn drop_slash(path: &str) -> Vec<Step> {
    let mut steps = match Ending::of(path) {
        Ending::Index("") => vec![serve(path), redirect("/index.html", "/")],
        Ending::Index(stem) => {
            vec![serve(path), redirect(format!("{stem}.html"), stem), redirect(format!("{path}.html"), stem)]
        }
        Ending::IndexHtml("") => vec![redirect(path, "/")],
        Ending::IndexHtml(stem) => vec![redirect(path, stem), serve(path), redirect(format!("{stem}.html"), stem)],
        Ending::Slash("") => vec![serve("/index.html")],
        Ending::Slash(stem) => {
            vec![redirect(format!("{stem}.html"), stem), redirect(format!("{stem}/index.html"), stem)]
        }
        Ending::Html(stem) => vec![redirect(path, stem), redirect(format!("{stem}/index.html"), stem)],
        Ending::Other => Vec::new(),
    };
    steps.extend([serve(path), serve(format!("{path}.html")), serve(format!("{path}/index.html"))]);
    steps
}

fn fallback<L: Lookup>(path: &str, not_found: NotFoundHandling, files: &L) -> Intent<L::Found> {
    let found = match not_found {
        NotFoundHandling::None => None,
        NotFoundHandling::SinglePageApplication => files.find("/index.html").map(|file| (file, false)),
        NotFoundHandling::NotFoundPage => {
            let ends = path.rmatch_indices('/').map(|(at, _)| &path[..at]);
            // A hostile path may have thousands of names; no directory tree is so deep.
            let start = path.matches('/').count().saturating_sub(MOST_PARENTS);
            let page = ends.skip(start).find_map(|directory| files.find(&format!("{directory}/404.html")));
            page.map(|file| (file, true))
        }
    };
    found.map_or(Intent::Nothing, |(file, missing)| Intent::Fallback { file, missing })
}

/// In how many directories above a path a `404.html` is looked for, from the root down where there are more.
const MOST_PARENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    struct Names(&'static [&'static str]);

    impl Lookup for Names {
        type Found = String;

        fn find(&self, path: &str) -> Option<String> {
            self.0.contains(&path).then(|| path.to_owned())
        }

        fn same(&self, one: &String, other: &String) -> bool {
            one == other
        }
    }

    /// What becomes of a request: the file, after how many redirects, and the path it is at then.
    fn follow(mode: HtmlHandling, files: &'static [&'static str], path: &str) -> String {
        let mut path = path.to_owned();
        for _ in 0..3 {
            match resolve(&path, mode, NotFoundHandling::None, &Names(files)) {
                Intent::Serve(file) => return format!("{file} at {path}"),
                Intent::Redirect(to) => path = to,
                _ => return "nothing".into(),
            }
        }
        "a circle".into()
    }

    /// The paths that are asked for, of a page, of a directory and of both, and a file without an ending beside a page.
    const ASKED: [(&[&str], [&str; 5]); 5] = [
        (&["/index.html"], ["/", "/index", "/index.html", "/index/", "/index.html/"]),
        (&["/both.html", "/both/index.html"], ["/both", "/both/", "/both.html", "/both/index", "/both/index.html"]),
        (&["/file.html"], ["/file", "/file/", "/file.html", "/file/index", "/file/index.html"]),
        (&["/dir/index.html"], ["/dir", "/dir/", "/dir.html", "/dir/index", "/dir/index.html"]),
        (&["/bin", "/bin.html"], ["/bin", "/bin/", "/bin.html", "/bin/index", "/bin/index.html"]),
    ];

    fn check(mode: HtmlHandling, expected: [[&str; 5]; 5]) {
        for ((files, paths), expected) in ASKED.into_iter().zip(expected) {
            for (path, expected) in paths.into_iter().zip(expected) {
                assert_eq!(follow(mode, files, path), expected, "{mode:?} {files:?} {path}");
            }
        }
    }

    #[test]
    fn auto_trailing_slash() {
        let root = "/index.html at /";
        let (page, dir) = ("/both.html at /both", "/both/index.html at /both/");
        check(
            HtmlHandling::AutoTrailingSlash,
            [
                [root, root, root, root, "nothing"],
                [page, dir, page, dir, dir],
                ["/file.html at /file"; 5],
                ["/dir/index.html at /dir/"; 5],
                ["/bin at /bin", "nothing", "/bin.html at /bin.html", "nothing", "nothing"],
            ],
        );
    }

    #[test]
    fn force_trailing_slash() {
        let root = "/index.html at /";
        let dir = "/both/index.html at /both/";
        check(
            HtmlHandling::ForceTrailingSlash,
            [
                [root, root, root, "/index.html at /index/", "nothing"],
                [dir, dir, "/both.html at /both.html", dir, dir],
                ["/file.html at /file/"; 5],
                ["/dir/index.html at /dir/"; 5],
                [
                    "/bin at /bin",
                    "/bin.html at /bin/",
                    "/bin.html at /bin/",
                    "/bin.html at /bin/",
                    "/bin.html at /bin/",
                ],
            ],
        );
    }

    #[test]
    fn drop_trailing_slash() {
        let root = "/index.html at /";
        let page = "/both.html at /both";
        check(
            HtmlHandling::DropTrailingSlash,
            [
                [root, root, root, root, "nothing"],
                [page, page, page, page, "/both/index.html at /both/index.html"],
                ["/file.html at /file"; 5],
                ["/dir/index.html at /dir"; 5],
                ["/bin at /bin", "nothing", "/bin.html at /bin.html", "nothing", "nothing"],
            ],
        );
    }

    #[test]
    fn none() {
        check(
            HtmlHandling::None,
            [
                ["nothing", "nothing", "/index.html at /index.html", "nothing", "nothing"],
                ["nothing", "nothing", "/both.html at /both.html", "nothing", "/both/index.html at /both/index.html"],
                ["nothing", "nothing", "/file.html at /file.html", "nothing", "nothing"],
                ["nothing", "nothing", "nothing", "nothing", "/dir/index.html at /dir/index.html"],
                ["/bin at /bin", "nothing", "/bin.html at /bin.html", "nothing", "nothing"],
            ],
        );
    }

    #[test]
    fn what_no_file_has_falls_back() {
        let files = Names(&["/index.html", "/404.html", "/a/b/404.html"]);
        let fall = |path: &str, not_found| resolve(path, HtmlHandling::AutoTrailingSlash, not_found, &files);
        let missing = |file: &str| Intent::Fallback { file: file.to_owned(), missing: true };
        assert_eq!(fall("/a/b/c/d", NotFoundHandling::NotFoundPage), missing("/a/b/404.html"));
        assert_eq!(fall("/a/b/", NotFoundHandling::NotFoundPage), missing("/a/b/404.html"));
        assert_eq!(fall("/a/b", NotFoundHandling::NotFoundPage), missing("/404.html"));
        let deep = "/x".repeat(10_000);
        assert_eq!(fall(&deep, NotFoundHandling::NotFoundPage), missing("/404.html"));
        let app = Intent::Fallback { file: "/index.html".to_owned(), missing: false };
        assert_eq!(fall("/a/x", NotFoundHandling::SinglePageApplication), app);
        assert_eq!(fall("/a/x", NotFoundHandling::None), Intent::Nothing);
    }
}
