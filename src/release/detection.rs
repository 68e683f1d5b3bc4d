//! What a release is made to be run by, from what lies in it. Says what it found, installs nothing,
//! runs nothing.

use crate::beneath::Directory;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use thiserror::Error;

/// Larger is no Procfile and no package.json.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Program and arguments, relative to the release.
    pub command: Vec<String>,
    /// By what it was found: `Procfile`, `a jar`.
    pub by: &'static str,
    /// Processes of the Procfile that are not run.
    pub left_out: Vec<String>,
}

/// Nothing says how to run it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DetectionError {
    /// Several would do.
    #[error("{what} could be meant: {}; say which after --, or by command in [app]", names.join(", "))]
    Several {
        /// Of what kind.
        what: &'static str,
        /// Which.
        names: Vec<String>,
    },
    /// It needs something that is not there.
    #[error("{0}")]
    Unfit(&'static str),
    /// Files, and no app that serves them.
    #[error(
        "{seen}, and no server for it: gapless passes requests on to an app, and serves no files \
         itself. Say after -- what serves them, for example: gapless deploy PATH -- {example}"
    )]
    Files {
        /// What lies there.
        seen: &'static str,
        /// A command that works where its program is installed.
        example: &'static str,
    },
    /// What is there lacks the permission.
    #[error("{name} in it is not executable: {remedy}")]
    NotExecutable {
        /// The file.
        name: String,
        /// How to run it.
        remedy: String,
    },
    /// Nothing known.
    #[error(
        "nothing in it says how to run it (looked for a command in gapless.toml, Procfile, one jar, \
         one program, bin/server, an Elixir release, package.json, a Python venv, config.ru); say \
         it after --: gapless deploy PATH -- CMD ARG..., or by command in [app] of a gapless.toml \
         in it"
    )]
    Nothing,
}

type Detected = Result<Option<Found>, DetectionError>;

/// The first that fits.
///
/// # Errors
/// [`DetectionError`].
pub fn detect(release: &Path) -> Result<Found, DetectionError> {
    let ways: [fn(&Path) -> Detected; 8] = [
        procfile,
        jar,
        elixir,
        program,
        package_json,
        python,
        rack,
        static_files,
    ];
    for way in ways {
        if let Some(found) = way(release)? {
            return Ok(found);
        }
    }
    Err(not_executable(release).unwrap_or(DetectionError::Nothing))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the end of every way that has found something"
)]
fn found(command: &[&str], by: &'static str) -> Detected {
    let command = command.iter().map(|part| (*part).to_owned()).collect();
    Ok(Some(Found {
        command,
        by,
        left_out: Vec::new(),
    }))
}

/// In a shell that becomes the program, so that SIGTERM reaches it.
fn shell(line: &str, by: &'static str) -> Detected {
    let is_compound = line.contains(['|', '&', ';', '<', '>', '(', ')', '\n', '`']);
    let sets_variables = line
        .split_whitespace()
        .next()
        .is_some_and(|word| word.contains('='));
    let line = match (is_compound, sets_variables) {
        (true, _) => line.to_owned(),
        (false, true) => format!("exec env {line}"),
        (false, false) => format!("exec {line}"),
    };
    found(&["/bin/sh", "-c", &line], by)
}

/// `web: bin/rails server -p $PORT`
fn procfile(release: &Path) -> Detected {
    let Some(text) = text(release, "Procfile") else {
        return Ok(None);
    };
    let lines = || {
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let lines = lines.filter_map(|line| line.split_once(':'));
        lines.map(|(name, line)| (name.trim(), line.trim()))
    };
    let Some((_, web)) = lines().find(|(name, line)| *name == "web" && !line.is_empty()) else {
        return Ok(None);
    };
    let mut found = shell(web, "web: in the Procfile")?;
    if let Some(found) = &mut found {
        let others = lines().map(|(name, _)| name).filter(|name| *name != "web");
        found.left_out = others.map(str::to_owned).collect();
    }
    Ok(found)
}

fn jar(release: &Path) -> Detected {
    let jars = files(release, |path| {
        path.extension().is_some_and(|extension| extension == "jar")
    });
    match only(jars, "several jars")? {
        Some(jar) => found(&["java", "-jar", &jar], "the jar"),
        None => Ok(None),
    }
}

/// `mix release`, or whoever else has a server there.
fn elixir(release: &Path) -> Detected {
    if is_executable(&release.join("bin/server")) {
        return found(&["bin/server"], "bin/server");
    }
    if !release.join("releases/start_erl.data").is_file() {
        return Ok(None);
    }
    let mut programs = files(&release.join("bin"), is_executable);
    programs.retain(|name| !name.contains('.'));
    match only(programs, "several programs in bin/")? {
        Some(name) => found(&[&format!("bin/{name}"), "start"], "the Elixir release"),
        None => Ok(None),
    }
}

/// One program at the top: Go, Rust, an image of Common Lisp, a script that is all there is.
fn program(release: &Path) -> Detected {
    let all = files(release, |_| true);
    let programs = files(release, |path| {
        is_executable(path) && begins(release, path, b"\x7fELF")
    });
    if let Some(name) = only(programs, "several programs")? {
        return found(&[&format!("./{name}")], "the program");
    }
    match all.as_slice() {
        [script] if is_executable(&release.join(script)) => {
            found(&[&format!("./{script}")], "the script")
        }
        _ => Ok(None),
    }
}

/// As much as we need of it.
#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    scripts: Scripts,
}

#[derive(Default, Deserialize)]
struct Scripts {
    start: Option<String>,
}

fn package_json(release: &Path) -> Detected {
    let Some(text) = text(release, "package.json") else {
        return Ok(None);
    };
    let package: Package = serde_json::from_str(&text)
        .map_err(|_| DetectionError::Unfit("package.json in it is not JSON; correct it"))?;
    let is_bun = ["bun.lock", "bun.lockb"]
        .iter()
        .any(|lock| release.join(lock).is_file());
    let Some(start) = package.scripts.start else {
        let find = |mains: &[&'static str]| {
            let mut mains = mains.iter();
            mains.find(|main| release.join(main).is_file()).copied()
        };
        let (typed, plain) = (
            find(&["server.ts", "index.ts"]),
            find(&["server.js", "index.js"]),
        );
        return match (is_bun, typed.or(plain), plain) {
            (true, Some(main), _) => found(&["bun", main], "package.json and bun.lock"),
            (false, _, Some(main)) => found(&["node", main], "package.json"),
            (true | false, _, _) => Err(DetectionError::Unfit(
                "package.json in it has no start script; add one, or say after -- what to run",
            )),
        };
    };
    match (is_bun, start.strip_prefix("node ")) {
        (true, _) => found(&["bun", "run", "start"], "package.json and bun.lock"),
        // npm passes no signals on, and stays in memory.
        (false, Some(_)) => shell(&start, "the start script of package.json"),
        (false, None) => found(&["npm", "start"], "the start script of package.json"),
    }
}

/// Through the interpreter: the scripts of a venv name the place where it was made.
fn python(release: &Path) -> Detected {
    let venv = [".venv", "venv"].into_iter().find(|venv| {
        release
            .join(venv)
            .join("bin/python")
            .symlink_metadata()
            .is_ok()
    });
    let Some(venv) = venv else {
        let is_python = ["requirements.txt", "pyproject.toml"]
            .iter()
            .any(|file| release.join(file).is_file());
        return if is_python {
            Err(DetectionError::Unfit(
                "a Python app without its packages: make a venv in it (python3 -m venv .venv, then \
                 .venv/bin/pip install -r requirements.txt), or say after -- what to run",
            ))
        } else {
            Ok(None)
        };
    };
    let python = format!("{venv}/bin/python");
    let has = |tool: &str| release.join(venv).join("bin").join(tool).is_file();
    let is_there = |file: &str| release.join(file).is_file();
    let app = [
        ("asgi.py", "asgi:application"),
        ("main.py", "main:app"),
        ("app.py", "app:app"),
    ];
    let app = app
        .iter()
        .find(|(file, _)| is_there(file))
        .map(|(_, app)| app);
    let wsgi = [
        ("wsgi.py", "wsgi:application"),
        ("app.py", "app:app"),
        ("main.py", "main:app"),
    ];
    let wsgi = wsgi
        .iter()
        .find(|(file, _)| is_there(file))
        .map(|(_, app)| app);
    match (has("uvicorn"), has("gunicorn"), app, wsgi) {
        (true, false, Some(app), _) | (true, true, Some(app), None) => shell(
            &format!("{python} -m uvicorn {app} --host 127.0.0.1 --port \"$PORT\""),
            "the venv",
        ),
        // It takes $PORT by itself.
        (_, true, _, Some(app)) => found(&[&python, "-m", "gunicorn", app], "the venv"),
        (true, _, None, _) | (_, true, None, None) => Err(DetectionError::Unfit(
            "a venv, but neither app.py, main.py, wsgi.py nor asgi.py; say after -- what to run",
        )),
        (false, false, _, _) | (false, true, Some(_), None) => Err(DetectionError::Unfit(
            "a venv without what serves the app: install gunicorn or uvicorn in it, or say after -- \
             what to run",
        )),
    }
}

fn rack(release: &Path) -> Detected {
    if !release.join("config.ru").is_file() {
        return Ok(None);
    }
    let gems = text(release, "Gemfile.lock").unwrap_or_default();
    if gems.contains(" puma ") {
        shell("bundle exec puma -p $PORT", "config.ru and puma")
    } else {
        shell("bundle exec rackup -o 127.0.0.1 -p $PORT", "config.ru")
    }
}

/// What is in `public/` is meant to be served from there, for what is beside it is not for everybody.
fn static_files(release: &Path) -> Detected {
    let known = [
        (
            "public/index.php",
            "there is public/index.php",
            "sh -c 'exec frankenphp php-server --root public --listen 127.0.0.1:$PORT'",
        ),
        (
            "index.php",
            "there is index.php",
            "sh -c 'exec frankenphp php-server --listen 127.0.0.1:$PORT'",
        ),
        (
            "public/index.html",
            "there is public/index.html",
            "sh -c 'exec python3 -m http.server --bind 127.0.0.1 --directory public $PORT'",
        ),
        (
            "index.html",
            "there is index.html",
            "sh -c 'exec python3 -m http.server --bind 127.0.0.1 $PORT'",
        ),
    ];
    let mut known = known.into_iter();
    match known.find(|(file, ..)| release.join(file).is_file()) {
        Some((_, seen, example)) => Err(DetectionError::Files { seen, example }),
        None => Ok(None),
    }
}

fn only(mut names: Vec<String>, what: &'static str) -> Result<Option<String>, DetectionError> {
    match names.len() {
        0 | 1 => Ok(names.pop()),
        _ => {
            let names = names.iter().map(|name| name.escape_debug().to_string());
            Err(DetectionError::Several {
                what,
                names: names.collect(),
            })
        }
    }
}

/// Names of the files in a directory that are as wanted, sorted.
fn files(directory: &Path, is_wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let listed = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = listed
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && is_wanted(path))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Nothing says how to run it, and one file at the top would, if it could be run.
fn not_executable(release: &Path) -> Option<DetectionError> {
    let programs = files(release, |path| {
        !is_executable(path) && begins(release, path, b"\x7fELF")
    });
    if let [name] = programs.as_slice() {
        return Some(DetectionError::NotExecutable {
            name: name.clone(),
            remedy: format!("chmod +x {name} before it is packed or copied"),
        });
    }
    let scripts = files(release, |path| {
        !is_executable(path) && interpreter(path).is_some()
    });
    let main = |name: &&String| {
        let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
        stem.is_some_and(|stem| ["app", "main", "server", "index"].contains(&stem))
    };
    let name = match scripts.as_slice() {
        [name] => name,
        several => several.iter().find(main)?,
    };
    let interpreter = interpreter(Path::new(name))?;
    Some(DetectionError::NotExecutable {
        name: name.clone(),
        remedy: format!(
            "say after -- what runs it: gapless deploy PATH -- {interpreter} {name}; or let it begin with #! and \
             chmod +x {name}"
        ),
    })
}

/// By what it is called.
fn interpreter(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "py" => Some("python3"),
        "js" | "mjs" => Some("node"),
        "rb" => Some("ruby"),
        "sh" => Some("sh"),
        "pl" => Some("perl"),
        _ => None,
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

fn begins(release: &Path, path: &Path, magic: &[u8]) -> bool {
    let mut head = vec![0; magic.len()];
    let opened = open_inside(release, path);
    opened.is_some_and(|mut file| file.read_exact(&mut head).is_ok() && head == magic)
}

fn text(release: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    let file = open_inside(release, &release.join(name))?;
    file.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A link may lead to the system's programs, and root reads there what nobody else may: not for a release.
fn open_inside(release: &Path, path: &Path) -> Option<File> {
    let real = path.canonicalize().ok()?;
    let is_inside = real.starts_with(release.canonicalize().ok()?);
    let directory = is_inside.then(|| Directory::chosen(real.parent()?).ok())??;
    directory.open_file(Path::new(real.file_name()?)).ok()
}

#[cfg(test)]
mod tests;
