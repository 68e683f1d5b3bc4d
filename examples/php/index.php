<?php

const VERSION = 'v1';

if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) === '/slow') {
    usleep(1000 * (int) ($_GET['ms'] ?? 0));
}
$answer = 'hello from php ' . VERSION . "\n";
header('Content-Type: text/plain');
// Without a length, an answer that is cut off looks whole.
header('Content-Length: ' . strlen($answer));
echo $answer;
