# Makes .venv beside this file if needed, installs the project into it, and runs pytest with the arguments given
# (-rA without any). $env:PYTHON names another interpreter than python. A second run finds everything in place.
$ErrorActionPreference = "Stop"
Set-Location $PSScriptRoot

$python = if ($env:PYTHON) { $env:PYTHON } else { "python" }
$venvPython = Join-Path ".venv" "Scripts/python.exe"
$stamp = Join-Path ".venv" ".installed"

if (-not (Test-Path $venvPython)) {
    & $python -c "import sys; sys.exit(sys.version_info < (3, 11))"
    if ($LASTEXITCODE -ne 0) {
        Write-Error "run_tests.ps1: Python 3.11 or later is needed; name one with `$env:PYTHON" -ErrorAction Continue
        exit 2
    }
    & $python -m venv .venv
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}
if (-not (Test-Path $stamp) -or (Get-Item pyproject.toml).LastWriteTime -gt (Get-Item $stamp).LastWriteTime) {
    Write-Host "run_tests.ps1: installing into .venv ..."
    & $venvPython -m pip install --quiet --disable-pip-version-check -e ".[images,dotenv,dev]"
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
    Set-Content -Path $stamp -Value "installed"
}

$arguments = if ($args.Count -gt 0) { $args } else { @("-rA") }
& $venvPython -m pytest @arguments
exit $LASTEXITCODE
