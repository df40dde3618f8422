"""Repair the one file that RabbitMQ leaves incomplete when it is killed.

RabbitMQ records in `names.dets` which folder of messages belongs to which quorum queue, up to two seconds after it has
confirmed the queue (seen with 3.10.8 and 4.0.5). When it is killed in between, it finds no folder for the queue at its
next start and creates an empty one that never elects a leader: the messages seem lost and the queue hangs for ever.
But each folder names its queue, so the record can be completed before the start.
"""

# Run in the parent of RabbitMQ's data folder, while RabbitMQ is down. The `config` of a folder is an Erlang term in
# Latin-1. Of two folders of one queue the newer one is used; a queue without a readable `config` was never confirmed.
_COMPLETE_NAMES = """
Parse = fun(Config) ->
    {ok, Text} = file:read_file(Config),
    {ok, Tokens, _} = erl_scan:string(binary_to_list(Text)),
    {ok, Term} = erl_parse:parse_term(Tokens),
    Term
end,
Complete = fun(Names, Folder, Config) ->
    case catch Parse(Config) of
        #{id := {Queue, _}, uid := Own} ->
            Noted = [Uid || {_, Uid} <- dets:lookup(Names, Queue), filelib:is_dir(filename:join(Folder, Uid))],
            [ok = dets:insert(Names, {Queue, Own}) || Noted =:= []];
        _ -> ok
    end
end,
[begin
    {ok, Names} = dets:open_file(names, [{file, File}]),
    Folder = filename:dirname(File),
    Configs = filelib:wildcard("*/config", Folder),
    Dated = [{filelib:last_modified(Path), Path} || Config <- Configs, Path <- [filename:join(Folder, Config)]],
    [Complete(Names, Folder, Path) || {_, Path} <- lists:reverse(lists:sort(Dated))],
    ok = dets:close(Names)
end || File <- filelib:wildcard("*/*/{quorum,coordination}/*/names.dets")],
halt(0).
"""

REPAIR_COMMAND = ("erl", "-boot", "start_clean", "-noinput", "-eval", _COMPLETE_NAMES)
