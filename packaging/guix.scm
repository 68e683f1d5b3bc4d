;;; gapless as a package for Guix, of this checkout:
;;;
;;;   cargo vendor                                # Guix builds without network
;;;   guix package --install-from-file=packaging/guix.scm
;;;
;;; It needs a Rust as new as Cargo.toml says. Guix System has no systemd: there, "gapless run" is
;;; what a service of its Shepherd starts; on other distributions, link the units from
;;; ~/.guix-profile/lib/systemd/system. Nobody has built it by Guix yet; "make test" only has Guile
;;; read it.

(use-modules (gnu packages gcc)
             (gnu packages rust)
             (guix build-system gnu)
             (guix gexp)
             ((guix licenses) #:prefix license:)
             (guix packages))

(package
  (name "gapless")
  (version "0.1.0")
  (source (local-file ".." "gapless-checkout"
                      #:recursive? #t
                      #:select? (lambda (file stat)
                                  (not (member (basename file) '("target" ".git" "dist"))))))
  (build-system gnu-build-system)
  (arguments
   (list
    ;; They want root, systemd and a network of their own: make test.
    #:tests? #f
    #:make-flags #~(list "DESTDIR=" (string-append "PREFIX=" #$output))
    #:phases
    #~(modify-phases %standard-phases
        (delete 'configure)
        (add-before 'build 'use-vendored-crates
          (lambda _
            (let ((home (string-append (getcwd) "/.cargo-home")))
              (setenv "CARGO_HOME" home)
              (mkdir-p home)
              (with-output-to-file (string-append home "/config.toml")
                (lambda _
                  (format #t "[source.crates-io]~%replace-with = \"vendored\"~%~%\
[source.vendored]~%directory = \"~a/vendor\"~%" (getcwd)))))))
        (add-after 'use-vendored-crates 'name-the-installed-binary
          (lambda _
            (substitute* (find-files "units" "\\.service$")
              (("/usr/bin/gapless") (string-append #$output "/bin/gapless")))))
        (replace 'build
          (lambda _
            (invoke "make" "build" "CARGO=cargo --offline"))))))
  (native-inputs (list rust `(,rust "cargo")))
  (inputs (list `(,gcc "lib")))
  (home-page "")
  (synopsis "Application server that loses no request")
  (description
   "gapless takes its listening socket from systemd, runs a web app in any language behind it, and
keeps answering while the app is replaced, crashes or hangs, and while gapless itself is upgraded,
restarted or killed.")
  (license (list license:expat license:asl2.0)))
