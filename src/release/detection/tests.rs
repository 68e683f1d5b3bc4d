use super::*;
use crate::release::store::tests::Scratch;
use std::fs::Permissions;

/// A release with these files; those that begin with `!` are executable.
fn release(files: &[(&str, &str)]) -> Scratch {
    let scratch = Scratch::new();
    for (name, content) in files {
        let path = scratch.0.join(name.trim_start_matches('!'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        if name.starts_with('!') {
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
    }
    scratch
}

fn command(files: &[(&str, &str)]) -> Vec<String> {
    detect(&release(files).0).unwrap().command
}

fn refused(files: &[(&str, &str)]) -> String {
    detect(&release(files).0).unwrap_err().to_string()
}

const ELF: &str = "\x7fELF";

#[test]
fn each_kind_of_app_is_found() {
    for (files, expected) in [
        (
            [
                ("Procfile", "worker: x\nweb: bin/rails s -p $PORT\n"),
                ("config.ru", ""),
            ]
            .as_slice(),
            ["/bin/sh", "-c", "exec bin/rails s -p $PORT"].as_slice(),
        ),
        (
            &[("Procfile", "web: RACK_ENV=production puma")],
            &["/bin/sh", "-c", "exec env RACK_ENV=production puma"],
        ),
        (
            &[("Procfile", "web: bin/migrate && bin/server")],
            &["/bin/sh", "-c", "bin/migrate && bin/server"],
        ),
        (&[("app.jar", "")], &["java", "-jar", "app.jar"]),
        (&[("!app", ELF)], &["./app"]),
        (
            &[("!app", ELF), ("templates/a.html", ""), ("LICENSE", "")],
            &["./app"],
        ),
        (&[("!run.sh", "#!/bin/sh")], &["./run.sh"]),
        // save-lisp-and-die: a program with its heap behind it.
        (
            &[
                ("!shop", "\x7fELF and a heap"),
                ("shop.core", ""),
                ("static/index.html", ""),
            ],
            &["./shop"],
        ),
        // Its own gapless.toml is read before anybody looks further.
        (
            &[("gapless.toml", "[app]\nworkers = 2\n"), ("!app", ELF)],
            &["./app"],
        ),
        (
            &[("config.ru", ""), ("Gemfile.lock", "    rack (3.0)\n")],
            &[
                "/bin/sh",
                "-c",
                "exec bundle exec rackup -o 127.0.0.1 -p $PORT",
            ],
        ),
        (
            &[
                ("!.venv/bin/python", ""),
                ("!.venv/bin/uvicorn", ""),
                ("!.venv/bin/gunicorn", ""),
                ("asgi.py", ""),
            ],
            &[
                "/bin/sh",
                "-c",
                "exec .venv/bin/python -m uvicorn asgi:application --host 127.0.0.1 --port \"$PORT\"",
            ],
        ),
        (
            &[("!bin/server", ""), ("!bin/migrate", "")],
            &["bin/server"],
        ),
        (
            &[
                ("releases/start_erl.data", ""),
                ("!bin/shop", ""),
                ("!bin/shop.bat", ""),
            ],
            &["bin/shop", "start"],
        ),
    ] {
        assert_eq!(command(files), expected, "{files:?}");
    }
}

#[test]
fn each_kind_of_app_in_a_language_of_its_own_is_found() {
    for (files, expected) in [
        (
            [("package.json", r#"{"scripts":{"start":"node server.js"}}"#)].as_slice(),
            ["/bin/sh", "-c", "exec node server.js"].as_slice(),
        ),
        (
            &[("package.json", r#"{"scripts":{"start":"next start"}}"#)],
            &["npm", "start"],
        ),
        (
            &[
                ("package.json", r#"{"scripts":{"start":"x"}}"#),
                ("bun.lock", ""),
            ],
            &["bun", "run", "start"],
        ),
        (
            &[("package.json", "{}"), ("server.js", "")],
            &["node", "server.js"],
        ),
        (
            &[("package.json", "{}"), ("bun.lock", ""), ("index.ts", "")],
            &["bun", "index.ts"],
        ),
        (
            &[
                ("!.venv/bin/python", ""),
                ("!.venv/bin/gunicorn", ""),
                ("app.py", ""),
            ],
            &[".venv/bin/python", "-m", "gunicorn", "app:app"],
        ),
        (
            &[
                ("!venv/bin/python", ""),
                ("!venv/bin/gunicorn", ""),
                ("wsgi.py", ""),
            ],
            &["venv/bin/python", "-m", "gunicorn", "wsgi:application"],
        ),
        (
            &[
                ("!.venv/bin/python", ""),
                ("!.venv/bin/uvicorn", ""),
                ("main.py", ""),
            ],
            &[
                "/bin/sh",
                "-c",
                "exec .venv/bin/python -m uvicorn main:app --host 127.0.0.1 --port \"$PORT\"",
            ],
        ),
        (
            &[("config.ru", ""), ("Gemfile.lock", "    puma (6.0)\n")],
            &["/bin/sh", "-c", "exec bundle exec puma -p $PORT"],
        ),
    ] {
        assert_eq!(command(files), expected, "{files:?}");
    }
}

#[test]
fn what_is_not_clear_is_asked_and_not_guessed() {
    let several = refused(&[("a.jar", ""), ("b.jar", "")]);
    assert!(
        several.starts_with("several jars could be meant: a.jar, b.jar; say"),
        "{several}"
    );
    let several = refused(&[("!a", ELF), ("!b", ELF)]);
    assert!(
        several.starts_with("several programs could be meant: a, b; say"),
        "{several}"
    );
}

#[test]
fn what_is_missing_is_said_with_its_remedy() {
    for (files, words) in [
        (
            [("requirements.txt", "")].as_slice(),
            "python3 -m venv .venv",
        ),
        (&[("package.json", "{}")], "no start script"),
        (&[("package.json", "{")], "is not JSON"),
        (
            &[("index.html", "")],
            "there is index.html, and no server for it: gapless passes requests on to an app, and \
             serves no files itself. Say after -- what serves them, for example: gapless deploy PATH \
             -- sh -c 'exec python3 -m http.server --bind 127.0.0.1 $PORT'",
        ),
        (
            &[("public/index.html", ""), ("index.html", "")],
            "--directory public $PORT'",
        ),
        (
            &[("index.php", ""), ("index.html", "")],
            "gapless deploy PATH -- sh -c 'exec frankenphp php-server --listen 127.0.0.1:$PORT'",
        ),
        (
            &[("public/index.php", "")],
            "frankenphp php-server --root public --listen",
        ),
        (&[("README.md", "")], "nothing in it says how to run it"),
        (
            &[("app.py", ""), ("util.py", "")],
            "gapless deploy PATH -- python3 app.py",
        ),
        (&[("worker.rb", "#!/usr/bin/ruby")], "-- ruby worker.rb"),
        (
            &[("shop", ELF), ("LICENSE", "")],
            "shop in it is not executable: chmod +x shop",
        ),
        (
            &[("!.venv/bin/python", ""), ("app.py", "")],
            "install gunicorn or uvicorn",
        ),
        (
            &[("!.venv/bin/python", ""), ("!.venv/bin/gunicorn", "")],
            "neither app.py",
        ),
    ] {
        let refused = refused(files);
        assert!(refused.contains(words), "{files:?}: {refused}");
    }
}

#[test]
fn what_else_a_procfile_names_is_told() {
    let text = "# clock: no\nrelease: bin/migrate\nweb: bin/server\nworker : bin/jobs\n";
    let found = detect(&release(&[("Procfile", text)]).0).unwrap();
    assert_eq!(found.left_out, ["release", "worker"]);
    assert!(
        detect(&release(&[("Procfile", "web: x")]).0)
            .unwrap()
            .left_out
            .is_empty()
    );
}
