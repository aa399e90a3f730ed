"""`python -m clickprompt COMMAND …`: the command line where its script isn't on the path, as in a job."""

from clickprompt.cli.main import main

if __name__ == "__main__":
    main()
