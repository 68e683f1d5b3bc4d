<?php

const VERSION = 'v1';

if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) === '/slow') {
    usleep(1000 * (int) ($_GET['ms'] ?? 0));
}
header('Content-Type: text/plain');
echo 'hello from php ', VERSION, "\n";
